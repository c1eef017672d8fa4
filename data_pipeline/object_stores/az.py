"""Azure's blob storage: `az://container/path`, of the account that the environment names."""

from adlfs import AzureBlobFileSystem
from azure.core.pipeline.policies import AsyncRedirectPolicy
from azure.storage.blob.aio import ExponentialRetry


class Az(AzureBlobFileSystem):
    """Asks once; whoever reads tries again."""

    def do_connect(self) -> None:
        """As the base's, with no redirect followed."""
        super().do_connect()
        policies = self.service_client._pipeline._impl_policies
        (redirecting,) = (each for each in policies if isinstance(each, AsyncRedirectPolicy))
        redirecting.allow = False
        (retrying,) = (each for each in policies if isinstance(each, ExponentialRetry))
        retrying.total_retries = 0


def open_az() -> AzureBlobFileSystem:
    """The file system of `az://`, with the credentials that `adlfs` finds."""
    return Az(use_listings_cache=False)
