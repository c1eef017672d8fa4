"""The pages in a real browser: they work, nothing of them leaks, and everybody can use them."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_pipeline.pack import pack
from data_pipeline.pairs import pack_drawn_pairs
from data_pipeline.presets import PRESETS
from tests.cluster.browsing import browsing
from tests.cluster.chromium import Tab, browser
from tests.data_pipeline.pictures import MemorySource, jpeg, people

LOADED = "Promise.all([...document.images].map(i => i.decode())).then(() => document.images.length)"
LOCATION = "location.href"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    counts = {f"person {n}": 2 + n % 5 for n in range(60)}
    return pack(people(counts, size=32), tmp_path_factory.mktemp("browse") / "faces")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def served(chromium, dataset):
    """A server that the browser has the cookie of."""
    with browsing(dataset.path) as made:
        Tab(chromium).open(made.link)
        yield made


@pytest.fixture
def visit(chromium, served):
    """A new tab on the first page."""
    tab = Tab(chromium)
    tab.resize(1200, 2000)
    tab.open(served.root)
    return tab, served


def complaints(tab):
    """What the browser's console says."""
    logged = [event["entry"]["text"] for event in tab.events("Log.entryAdded")]
    return logged + tab.events("Runtime.exceptionThrown")


def click(tab, selector):
    with tab.loading():
        tab.value(f"document.querySelector({selector!r}).click()")


def test_the_link_becomes_a_cookie_that_no_script_and_no_other_page_can_use(chromium, dataset):
    with browsing(dataset.path) as served:
        tab = Tab(chromium)
        tab.open(served.link)
        assert tab.value(LOCATION) == served.root
        assert tab.value("document.referrer") == ""
        assert tab.value("document.cookie") == "", "HttpOnly"
        (cookie,) = tab.call("Network.getCookies", urls=[served.root])["cookies"]
        beside = tab.call("Network.getCookies", urls=[f"http://127.0.0.1:{served.port}/"])
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["session"]) == (True, "Strict", True)
    assert served.root.endswith(cookie["path"])
    assert beside == {"cookies": []}, "other ports are other paths"


def test_a_person_is_found_and_looked_at_as_the_network_does(visit):
    tab, served = visit
    assert tab.value(LOADED) == 24
    click(tab, ".bar nav a[href$=identities]")
    assert tab.value(LOADED) == 48
    click(tab, "nav.pages a[rel=next]")
    assert tab.value(LOADED) == 12
    click(tab, "a.card")
    assert tab.value("document.querySelector('h1').textContent") == "Identity 48"
    click(tab, "a.card")
    tab.value("document.querySelector('select[name=preset]').value = 'strong'")
    click(tab, "form.panel button")
    assert "preset=strong&epoch=0&seed=0" in tab.value(LOCATION)
    assert tab.value(LOADED) == 1 + 12 + len(PRESETS)
    assert complaints(tab) == []
    origin = served.link.partition("/" + served.root.split("/")[3])[0]
    requests = [event["request"]["url"] for event in tab.events("Network.requestWillBeSent")]
    assert len(requests) > 100
    assert {url.startswith(f"{origin}/") for url in requests if url != "about:blank"} == {True}


def test_everything_works_without_script(visit):
    tab, _ = visit
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(tab.value(LOCATION))
    assert tab.value("document.scripts.length") == 0
    tab.value("document.querySelector('input[name=search]').focus()")
    tab.write("7")
    with tab.loading():
        tab.press("Enter")
    assert tab.value(LOCATION).endswith("/identity/7")


def test_the_keyboard_reaches_everything_and_shows_where_it_is(visit):
    tab, _ = visit
    tab.press("Tab")
    assert tab.value("document.activeElement.textContent") == "Skip to content"
    assert tab.value("document.activeElement.getBoundingClientRect().left") >= 0
    reached = set()
    links = tab.value("document.querySelectorAll('a, button, input, select').length")
    for _ in range(links):
        reached.add(
            tab.value(
                "[...document.querySelectorAll('a, button, input, select')]"
                ".indexOf(document.activeElement)"
            )
        )
        assert tab.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        tab.press("Tab")
    assert reached == set(range(links))


@pytest.mark.parametrize("width", [320, 390])
def test_pages_fit_a_phone(visit, width):
    tab, served = visit
    tab.resize(width, 800)
    for path in ("", "identities", "identity/3", "face/3", "nothing"):
        tab.open(f"{served.root}{path}")
        assert tab.value("document.documentElement.scrollWidth") <= width, path
        smallest = tab.value(
            "Math.min(...[...document.querySelectorAll('p, a, td, th, dd, span')]"
            ".filter(e => e.textContent).map(e => parseFloat(getComputedStyle(e).fontSize)))"
        )
        assert smallest >= 13


CONTRAST = """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    const colour = parts(getComputedStyle(e).backgroundColor);
    return colour.length === 4 && colour[3] === 0 ? ground(e.parentElement) : colour;
  };
  const all = 'p, a, b, span, td, th, dt, dd, h1, h2, label, button, strong, small';
  const found = [...document.querySelectorAll(all)]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
    .filter(e => !e.closest('[aria-hidden]'))
    .map(e => {
      const [text, behind] = [light(parts(getComputedStyle(e).color)), light(ground(e))];
      return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    });
  return Math.min(...found);
})()
"""


def test_text_stands_out_in_light_and_in_dark(visit):
    tab, served = visit
    grounds = set()
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        for path in ("", "identities", "face/3"):
            tab.open(f"{served.root}{path}")
            assert tab.value(CONTRAST) >= 4.5, (scheme, path, "WCAG 2.2, 1.4.3")
        grounds.add(tab.value("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


PAGE_OF_ANOTHER = b"""<!doctype html><title>another</title>
<img id=picture src="%(root)sthumbnail/0"><iframe id=frame src="%(root)s"></iframe>
<script>
  window.result = fetch("%(root)s", {credentials: "include", mode: "no-cors"})
    .then(r => r.type, () => "refused");
</script>"""


def test_a_page_of_another_server_on_this_machine_gets_nothing(visit):
    tab, served = visit
    asked = []

    class Another(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(str(self.headers))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE_OF_ANOTHER % {b"root": served.root.encode()})

        def log_message(self, format, *args):
            """Tests print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Another) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            tab.open(f"http://127.0.0.1:{server.server_port}/")
            assert tab.value("document.querySelector('#picture').naturalWidth") == 0
            assert tab.value("window.result") in ("opaque", "refused")
            frame = tab.value("document.querySelector('#frame').contentDocument === null")
            assert frame, "it shows an error page, which is of no origin"
        finally:
            server.shutdown()
            thread.join()
    assert asked
    assert "facescale=" not in "".join(asked), "cookies ignore ports, so the path must keep it"


def test_the_pairs_of_a_verification_set_are_shown(chromium, tmp_path):
    images = {(f"p{n % 12}", f"{n}.jpg"): jpeg(n, 32) for n in range(60)}
    pack_drawn_pairs(MemorySource(images), tmp_path / "pairs", num_pairs=40, folds=2)
    with browsing(tmp_path / "pairs") as served:
        tab = Tab(chromium)
        tab.resize(1200, 3000)
        tab.open(served.link)
        click(tab, ".bar nav a[href$=pairs]")
        assert tab.value(LOADED) == 48
        assert tab.value("document.querySelectorAll('.same').length") > 0
        assert complaints(tab) == []
