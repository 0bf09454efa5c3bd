// The page: loads the gallery, and connects the map, the lists, the keyboard and the server.

import { floats, integers, json, nearest, picturesOf } from "/api.js";
import { palette, pixel, quiet } from "/colours.js";
import { drops, gestures } from "/gestures.js";
import { keys } from "/keys.js";
import { showClusters, showFurthest } from "/lists.js";
import { ImageMap } from "/map.js";
import { element, showHover, showNeighbours } from "/panel.js";
import { Sheets } from "/sheets.js";

const POLL_MS = 1000;
const MOST_GROUPS = 40; // in the legend
const at = (id) => document.getElementById(id);

const sheets = new Sheets(() => map.draw());
const map = new ImageMap(at("map"), sheets, () => at("tools").offsetTop + at("tools").offsetHeight);
const gallery = {};
const view = { side: 0, colour: "class", filter: null, student: -1, selected: null, history: [], versions: [], ready: [], url: null };
// How often an image was chosen or left, and how often a map was asked for: only the answer to the last counts.
const turns = { image: 0, map: 0 };

async function start() {
  const [about, points, labels] = await Promise.all([json("/gallery"), floats("/map/0"), integers("/labels")]);
  picturesOf(about.token);
  Object.assign(gallery, about, { labels, clusters: null, clusterOf: null });
  gallery.label = (index) => gallery.classes[labels[index]] ?? "";
  gallery.clusterName = (number) => (gallery.clusters[number].name ? `${number + 1} \u00b7 ${gallery.clusters[number].name}` : `cluster ${number + 1}`);
  if (!about.labelled) view.colour = "cluster";
  const part = about.images < about.of ? ` of ${about.of.toLocaleString("en")}` : "";
  at("about").textContent = `${about.images.toLocaleString("en")}${part} images, split ${about.split} of ${about.dataset}`;
  at("side").replaceChildren(...about.sides.map((side, number) => element("option", { value: String(number), textContent: side.name })));
  colourChoices();
  map.show(points);
  recolour();
  poll();
}

function colourChoices() {
  const choices = [...(gallery.labelled ? [["class", "by class"]] : []), ...(gallery.clusters ? [["cluster", "by cluster"]] : [])];
  at("colour").replaceChildren(...choices.map(([value, textContent]) => element("option", { value, textContent, selected: value === view.colour })));
  at("colour").parentElement.hidden = choices.length < 2;
}

// Groups by which the map is coloured: [name, number of the group] of each, and the group of each image.
function groups() {
  if (view.colour === "class") return [gallery.classes, gallery.labels];
  return gallery.clusters ? [gallery.clusters.map((_, number) => gallery.clusterName(number)), gallery.clusterOf] : [[], null];
}

function recolour() {
  const [names, of] = groups();
  const colours = palette(names.length);
  const pixels = colours.map((colour) => pixel(colour, 0.85));
  const other = pixel(quiet(), 0.45);
  map.colours = Uint32Array.from({ length: gallery.images }, (_, index) => pixels[of?.[index]] ?? other);
  legend(names, colours);
  map.draw();
}

function legend(names, colours) {
  const items = names.slice(0, MOST_GROUPS).map((name, group) => {
    const dot = element("i");
    dot.style.background = colours[group];
    const button = element("button", { type: "button", onclick: () => filter(view.colour, group) }, dot, name);
    button.setAttribute("aria-pressed", String(view.filter?.kind === view.colour && view.filter.group === group));
    return element("li", {}, button);
  });
  at("legend").replaceChildren(...items);
}

// Show the images of one class or cluster, or all again if these are shown already.
function filter(kind, group) {
  const same = view.filter?.kind === kind && view.filter.group === group;
  const of = kind === "class" ? gallery.labels : gallery.clusterOf;
  const name = kind === "class" ? gallery.classes[group] : gallery.clusterName(group);
  setFilter(same ? null : { kind, group, name }, same ? null : Uint8Array.from(of, (own) => Number(own === group)));
}

function setFilter(chosen, shown) {
  view.filter = chosen;
  map.filter(shown);
  const count = shown?.reduce((sum, one) => sum + one, 0);
  at("chip").hidden = !chosen;
  at("chip").textContent = chosen ? `${chosen.name}: ${count.toLocaleString("en")} images  \u00d7` : "";
  at("chip").setAttribute("aria-label", chosen ? `show all images, not only ${chosen.name}` : "");
  const [names] = groups();
  legend(names, palette(names.length));
  if (gallery.clusters) for (const one of document.querySelectorAll(".cluster")) one.setAttribute("aria-pressed", String(chosen?.kind === "cluster" && Number(one.dataset.cluster) === chosen.group));
}

function search() {
  const text = at("search").value.trim().toLowerCase();
  if (!text) return setFilter(null, null);
  const names = gallery.labelled ? gallery.classes : (gallery.clusters ?? []).map((_, number) => gallery.clusterName(number));
  const of = gallery.labelled ? gallery.labels : gallery.clusterOf;
  const matches = new Set(names.flatMap((name, group) => (name.toLowerCase().includes(text) ? [group] : [])));
  setFilter({ kind: "search", name: matches.size === 1 ? names[[...matches][0]] : `"${text}"` },
    Uint8Array.from({ length: gallery.images }, (_, index) => Number(matches.has(of?.[index]))));
}

async function poll() {
  let state;
  try {
    state = await json("/state");
    tell(state.doing ? `${state.doing} …` : "");
    await update(state);
  } catch (error) {
    tell(error.message);
  }
  if (state?.doing) setTimeout(poll, POLL_MS);
}

async function update(state) {
  for (const [number, option] of [...at("side").options].entries()) option.disabled = !state.maps[number];
  if (state.clusters && !gallery.clusters) {
    const [clusters, of] = await Promise.all([json("/clusters"), integers("/cluster-of")]);
    Object.assign(gallery, { clusters, clusterOf: of });
    colourChoices();
    showClusters(at("clusters"), gallery, null, (number) => filter("cluster", number));
    recolour();
  }
  const stale = view.versions[view.side] !== undefined && view.versions[view.side] !== state.maps[view.side];
  const first = view.versions[view.side] === undefined && state.maps[view.side] > 1;
  if (stale || first) await showMap();
  view.versions = state.maps;
  if (String(view.ready) !== String(state.furthest)) {
    await furthest(state.furthest);
    view.ready = state.furthest;
  }
}

async function showMap() {
  const turn = (turns.map += 1);
  const points = await floats(`/map/${view.side}`);
  if (turn === turns.map) map.show(points);
}

const furthest = (ready) => showFurthest(at("furthest"), gallery, ready, view.student, choose, (number) => {
  view.student = number;
  furthest(ready).catch((error) => tell(error.message));
});

// Look at an image of the dataset. It is remembered for `back`, with the tab and the button that it was chosen from.
async function choose(index, remember = true) {
  if (remember) remembered();
  const turn = (turns.image += 1);
  view.selected = { index };
  map.marks = { image: index, near: new Map() };
  map.reveal(index);
  try {
    const about = { index, ...(await json(`/about/${index}`)) };
    if (turn === turns.image) look(about, null);
  } catch (error) {
    if (turn === turns.image) tell(error.message);
  }
}

async function chooseFile(file, remember = true) {
  if (remember) remembered();
  const turn = (turns.image += 1);
  view.selected = { file };
  map.marks = { image: null, near: new Map() };
  map.draw();
  tell("finding neighbours of your image …");
  try {
    const found = await nearest(file);
    tell("");
    if (turn === turns.image) look({ found }, { file, url: URL.createObjectURL(file) });
  } catch (error) {
    tell(turn === turns.image ? error.message : "");
  }
}

function look(about, own) {
  const colours = palette(gallery.sides.length);
  const near = new Map();
  about.found.forEach((side, number) => {
    for (const [index] of Array.isArray(side) ? side : side.found ?? []) if (!near.has(index)) near.set(index, colours[number]);
  });
  map.marks = { image: own ? null : about.index, near };
  map.draw();
  const hadFocus = at("panel").contains(document.activeElement);
  showNeighbours(at("neighbours"), gallery, about, own, choose);
  if (view.url) URL.revokeObjectURL(view.url); // of the picture that was replaced
  view.url = own?.url ?? null;
  tab("neighbours");
  if (hadFocus) at("neighbours").querySelector("button")?.focus();
}

function remembered() {
  const open = document.querySelector("[role=tab][aria-selected=true]").id.replace("tab-", "");
  view.history.push({ selected: view.selected, tab: open, focus: open === "neighbours" ? null : document.activeElement });
}

function back() {
  if (document.activeElement.matches("input, select")) return document.activeElement.blur();
  const before = view.history.pop();
  turns.image += 1;
  if (before?.tab && before.tab !== "neighbours") {
    tab(before.tab);
    before.focus?.focus();
  } else if (before?.selected?.file) chooseFile(before.selected.file, false);
  else if (before?.selected) choose(before.selected.index, false);
  else if (view.filter) clear();
  else {
    view.selected = null;
    map.marks = { image: null, near: new Map() };
    map.whole();
  }
}

function clear() {
  at("search").value = "";
  setFilter(null, null);
}

function tab(name) {
  for (const one of document.querySelectorAll("[role=tab]")) {
    const chosen = one.id === `tab-${name}`;
    one.setAttribute("aria-selected", String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    at(one.getAttribute("aria-controls")).hidden = !chosen;
  }
}

function tell(text) {
  at("doing").textContent = text;
}

gestures(map, { onPoint: (...pointed) => showHover(at("hover"), map, gallery, ...pointed), onChoose: choose });
keys(map, { back, tab, search: () => at("search").focus(), searched: () => map.canvas.focus(), help: () => at("help").showModal(), open: () => at("file").click() });
drops(at("drop"), chooseFile);
at("search").addEventListener("input", search);
at("chip").addEventListener("click", clear);
at("open").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", (event) => event.target.files[0] && chooseFile(event.target.files[0]).then(() => (event.target.value = "")));
at("keys").addEventListener("click", () => at("help").showModal());
at("closer").addEventListener("click", () => map.zoomBy(1.6));
at("farther").addEventListener("click", () => map.zoomBy(1 / 1.6));
at("whole").addEventListener("click", () => map.whole());
at("colour").addEventListener("change", (event) => { view.colour = event.target.value; recolour(); });
at("side").addEventListener("change", (event) => { view.side = Number(event.target.value); showMap().catch((error) => tell(error.message)); });
for (const one of document.querySelectorAll("[role=tab]")) one.addEventListener("click", () => tab(one.getAttribute("aria-controls")));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
start().catch((error) => tell(error.message));
