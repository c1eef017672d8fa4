"""arcface_torch's networks, written literally from their structure, with their names.

Twins for the importer: what they save is what a published `backbone.pth` looks like.
"""

import torch
from torch import nn


class IBasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride=1, downsample=None):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = downsample

    def forward(self, x):
        out = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return out + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    def __init__(self, layers, num_features, last_map):
        super().__init__()
        self.inputs = 64
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = self.layer(64, layers[0])
        self.layer2 = self.layer(128, layers[1])
        self.layer3 = self.layer(256, layers[2])
        self.layer4 = self.layer(512, layers[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * last_map, num_features)
        self.features = nn.BatchNorm1d(num_features)
        self.features.weight.requires_grad = False

    def layer(self, outputs, blocks):
        downsample = nn.Sequential(
            nn.Conv2d(self.inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs)
        )
        made = [IBasicBlock(self.inputs, outputs, 2, downsample)]
        made += [IBasicBlock(outputs, outputs) for _ in range(blocks - 1)]
        self.inputs = outputs
        return nn.Sequential(*made)

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(torch.flatten(self.bn2(x), 1)))


class Layers(nn.Module):
    """A module whose parts are in `layers`, as most there."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


def linear_block(inputs, outputs, kernel=1, stride=1, padding=0, groups=1):
    return Layers(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


def conv_block(inputs, outputs, *sizes):
    return Layers(*linear_block(inputs, outputs, *sizes).layers, nn.PReLU(outputs))


class DepthWise(Layers):
    def __init__(self, inputs, outputs, groups, stride=2, residual=False):
        super().__init__(
            conv_block(inputs, groups),
            conv_block(groups, groups, 3, stride, 1, groups),
            linear_block(groups, outputs),
        )
        self.residual = residual

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


def residual(channels, blocks, groups):
    return Layers(
        *(DepthWise(channels, channels, groups, stride=1, residual=True) for _ in range(blocks))
    )


class MobileFaceNet(nn.Module):
    def __init__(self, blocks, scale, num_features, last_map):
        super().__init__()
        c, d = 64 * scale, 128 * scale
        second = (
            conv_block(c, c, 3, 1, 1, 64) if blocks[0] == 1 else residual(c, blocks[0], groups=128)
        )
        self.layers = nn.ModuleList(
            [
                conv_block(3, c, 3, 2, 1),
                second,
                DepthWise(c, c, 128),
                residual(c, blocks[1], 128),
                DepthWise(c, d, 256),
                residual(d, blocks[2], 256),
                DepthWise(d, d, 512),
                residual(d, blocks[3], 256),
            ]
        )
        self.conv_sep = conv_block(d, 512)
        self.features = Layers(
            linear_block(512, 512, last_map, 1, 0, 512),
            nn.Flatten(),
            nn.Linear(512, num_features, bias=False),
            nn.BatchNorm1d(num_features),
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv = nn.Linear(dim, dim * 3, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 8, dim // 8).permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-2, -1)) * (dim // 8) ** -0.5).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(nn.functional.relu6(self.fc1(x)))


class PatchEmbed(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 9, 9)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class ViTBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = Attention(dim)
        self.mlp = Mlp(dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, dim, depth, num_features, tokens):
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim))
        self.blocks = nn.ModuleList(ViTBlock(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.feature = nn.Sequential(
            nn.Linear(dim * tokens, dim, bias=False),
            nn.BatchNorm1d(dim, eps=2e-5),
            nn.Linear(dim, num_features, bias=False),
            nn.BatchNorm1d(num_features, eps=2e-5),
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x):
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.feature(self.norm(x).flatten(1))
