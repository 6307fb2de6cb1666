# SPDX-License-Identifier: Apache-2.0
"""The console in a real browser: live, by keyboard alone, readable by a screen reader, without a complaint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.browser import Page, browser
from support.cluster_objects import service
from support.console_world import console_world
from support.model_enforcer import ModelEnforcer
from support.plan_server import PlanServer, enforcer_client

MANY = 5_000

FAULTS = """
(() => {
  const faults = [];
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const seen = [...document.querySelectorAll("body *")].filter((each) => each.checkVisibility());
  for (const element of seen) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (hasText) {
      const [light, dark] = [getComputedStyle(element).color, behind(element)].map(luminance).sort((a, b) => b - a);
      const contrast = (light + 0.05) / (dark + 0.05);
      if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(1)}: ${element.outerHTML.slice(0, 120)}`);
    }
  }
  for (const element of document.querySelectorAll("input, select, textarea")) {
    if (!element.labels.length) faults.push(`without a label: ${element.outerHTML}`);
  }
  for (const element of document.querySelectorAll("button")) {
    if (!element.textContent.trim()) faults.push(`without a name: ${element.outerHTML}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
  for (const id of ids.filter((each, index) => ids.indexOf(each) !== index)) faults.push(`id twice: ${id}`);
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    const named = ["aria-labelledby", "aria-describedby"].map((each) => element.getAttribute(each));
    for (const id of named.filter(Boolean)) {
      if (!document.getElementById(id)) faults.push(`refers to nothing: ${id}`);
    }
  }
  for (const tag of ["main", "header", "nav", "footer", "h1"]) {
    if (document.querySelectorAll(tag).length !== 1) faults.push(`not one ${tag}`);
  }
  for (const element of document.querySelectorAll("th")) if (!element.scope) faults.push("th without scope");
  if (document.querySelectorAll('.grid [tabindex="0"]').length !== 1) faults.push("the grid is not one stop of Tab");
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth) faults.push("wider than the window");
  return faults;
})()
"""


@asynccontextmanager
async def opened(nodes: int) -> AsyncIterator[tuple[PlanServer, Page]]:
    """The console of a planner with so many nodes, in a browser that shows them all."""
    async with console_world(nodes) as (server, port), browser() as page:
        await page.resize(1280, 1000)
        await page.open(f"http://127.0.0.1:{port}/")
        await page.until(f"document.querySelectorAll('.cell').length === {nodes}")
        yield server, page
        assert page.problems == []


async def press(page: Page, *keys: str) -> None:
    codes = {
        "Tab": 9,
        "Enter": 13,
        "Home": 36,
        "End": 35,
        "ArrowLeft": 37,
        "ArrowUp": 38,
        "ArrowRight": 39,
        "ArrowDown": 40,
    }
    for key in keys:
        await page.key(key, codes[key], text="\r" if key == "Enter" else "")


async def focus_by_tab(page: Page, condition: str) -> None:
    """Press Tab until the focused element, `e`, is the wanted one."""
    for _ in range(40):
        await press(page, "Tab")
        if await page.js(f"((e) => Boolean({condition}))(document.activeElement)"):
            return
    raise AssertionError(f"Tab does not get to {condition}")


async def test_a_node_that_syncs_is_seen_without_a_reload() -> None:
    async with opened(3) as (server, page):
        assert await page.js("document.querySelector('[data-node=node-0002]').textContent") == "-"
        async with enforcer_client(server, ModelEnforcer("node-0002")):
            await page.until("document.querySelector('[data-node=node-0002]').dataset.state === 'synced'")
            assert await page.js("document.querySelector('[data-node=node-0002]').textContent") == "="
            server.put(service("shop/api", "10.96.0.7", ports=["p:80"]))
            await page.until("document.querySelector('#timeline').textContent.includes('shop/api')")
            await page.until("document.querySelector('#summary').textContent.startsWith('1 of 3 nodes are synced')")
            await page.until("document.querySelector('#timeline').textContent.includes('on every node')")
            await page.until("document.querySelector('#latency').textContent.includes('half within')")


async def test_the_keyboard_alone_finds_a_node_and_has_a_packet_explained() -> None:
    async with opened(200) as (_, page):
        await press(page, "Tab")
        assert await page.js("document.activeElement.className") == "skip"
        await focus_by_tab(page, "e.dataset.node === 'node-0001'")
        await press(page, "ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft", "End")
        assert await page.js("document.activeElement.dataset.node") == "node-0200"
        await press(page, "Home", "Enter")
        await page.until("document.querySelector('#node').textContent.includes('never connected')")
        assert await page.js("document.activeElement.getAttribute('aria-selected')") == "true"
        await focus_by_tab(page, "e.form?.id === 'explain-form' && e.name === 'source'")
        await page.type("10.1.0.9")
        await press(page, "Tab")
        await page.type("10.96.0.1")
        await press(page, "Tab")
        await page.type("80")
        await press(page, "Enter")
        await page.until("document.querySelector('#explain-answer .outcome')")
        answer = await page.js("document.querySelector('#explain-answer').textContent")
        assert "forward: shop/web port p" in answer
        assert "10.1.0.1:8080" in answer
        assert "10.1.0.2:8080" in answer, "with the reason why not"


async def test_endpoints_and_refusals_are_shown() -> None:
    async with opened(2) as (_, page):
        form = "document.querySelector('#endpoints-form')"
        ask = f"{form}.elements.service.value = '%s'; {form}.requestSubmit()"
        await page.js(ask % "shop/web")
        await page.until("document.querySelectorAll('#endpoints-answer tbody tr').length === 2")
        assert "not ready" in await page.js("document.querySelector('#endpoints-answer').textContent")
        await page.js(ask % "shop/none")
        await page.until(
            "document.querySelector('#endpoints-answer .error')?.textContent.includes('there is no service shop/none')"
        )
        # The browser itself notes the refused request; nothing else may be there.
        assert [each for each in page.problems if "404 (Not Found)" not in each] == []
        page.problems.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_contrast_labels_and_landmarks_hold(scheme: str, width: int) -> None:
    async with opened(30) as (server, page), enforcer_client(server, ModelEnforcer("node-0001")):
        await page.resize(width, 1000)
        await page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await page.until("document.querySelector('[data-node=node-0001]').dataset.state === 'synced'")
        server.put(service("shop/api", "10.96.0.7", ports=["p:80"]))
        await page.until("document.querySelector('#timeline tr')")
        await page.js("document.querySelector('.cell').click()")
        await page.until("document.querySelector('#node dl')")
        assert await page.js(FAULTS) == []


async def test_five_thousand_nodes_are_changed_one_by_one_and_not_drawn_anew() -> None:
    async with opened(MANY) as (server, page):
        await page.js(
            "window.changed = 0; new MutationObserver((all) => { window.changed += all.length; }).observe("
            "document.querySelector('#grid'), { attributes: true, childList: true, subtree: true })"
        )
        async with enforcer_client(server, ModelEnforcer("node-4242")):
            await page.until("document.querySelector('[data-node=node-4242]').dataset.state === 'synced'")
            assert await page.js("window.changed") <= 20
        tree = await page.send("Accessibility.queryAXTree", objectId=await _grid(page), role="option")
        names = {each["name"]["value"] for each in tree["nodes"]}
        assert "node-0001: disconnected" in names
        assert len(names) == MANY


async def _grid(page: Page) -> str:
    found = await page.send("Runtime.evaluate", expression="document.querySelector('#grid')")
    identity: str = found["result"]["objectId"]
    return identity
