// Keeps the page's live regions fresh and turns slices of an overlay. It asks for the page it is on
// and takes over what changed, so there is one rendering of everything. Without this script every
// page still works. A file of its own, so that the page's policy can forbid inline scripts.
"use strict";

const PERIOD_MS = 2000;
const regions = document.querySelectorAll("[data-live]");
const stale = document.getElementById("stale");
const shown = new Map();
let asking = false;

function put(region, fresh) {
  const html = fresh.innerHTML;
  if (shown.get(region.id) === html) return;
  shown.set(region.id, html);
  const open = new Set([...region.querySelectorAll("details[open][id]")].map((part) => part.id));
  const focused = region.contains(document.activeElement) ? document.activeElement.id : "";
  const typed = [...region.querySelectorAll("form input[id], form select[id]")].map(
    (field) => [field.id, field.value, field.checked]);
  const sliders = [...region.querySelectorAll("input[type=range]")].map((s) => [s.id, s.value]);
  const scrolled = [window.scrollX, window.scrollY];
  region.innerHTML = html;
  for (const part of region.querySelectorAll("details[id]")) {
    part.open = open.has(part.id) || part.open;
  }
  prepare(region);
  for (const [id, value, checked] of typed) {
    const field = document.getElementById(id);
    if (field) Object.assign(field, { value, checked });
  }
  for (const [id, value] of sliders) {
    const slider = document.getElementById(id);
    if (slider && slider.value !== value) {
      slider.value = value;
      slider.dispatchEvent(new Event("input"));
    }
  }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  window.scrollTo(...scrolled);
}

async function refresh() {
  if (document.hidden || asking) return;
  asking = true;
  try {
    const answer = await fetch(location.href, {
      redirect: "manual",
      signal: AbortSignal.timeout(10 * PERIOD_MS),
    });
    if (answer.type === "opaqueredirect") return void location.reload(); // signed out meanwhile
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const region of regions) {
      const fresh = page.getElementById(region.id);
      if (fresh) put(region, fresh);
    }
    stale.hidden = true;
  } catch {
    stale.hidden = false; // what is on the screen is old: say so
  } finally {
    asking = false;
  }
}

function turn(viewer, by) {
  const slider = viewer.querySelector("input[type=range]");
  slider.value = Number(slider.value) + by;
  slider.dispatchEvent(new Event("input"));
}

function prepare(root) {
  for (const viewer of root.querySelectorAll("[data-pictures]")) {
    const slider = viewer.querySelector("input[type=range]");
    const picture = viewer.querySelector("img");
    const number = viewer.querySelector("output");
    viewer.classList.add("scripted");
    slider.addEventListener("input", () => {
      picture.src = `${viewer.dataset.pictures}/${slider.value}`;
      picture.alt = `Slice ${slider.value} of ${slider.max} with the segments drawn in`;
      number.textContent = `Slice ${slider.value} of ${slider.max}`;
    });
    picture.addEventListener("wheel", (event) => {
      event.preventDefault();
      turn(viewer, Math.sign(event.deltaY));
    }, { passive: false });
    picture.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1,
        PageUp: -10, PageDown: 10 }[event.key];
      if (!by) return;
      event.preventDefault();
      turn(viewer, by);
    });
  }
}

for (const region of regions) shown.set(region.id, region.innerHTML);
prepare(document);
if (regions.length) {
  setInterval(refresh, PERIOD_MS);
  document.addEventListener("visibilitychange", refresh);
}
