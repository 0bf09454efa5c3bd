// The keyboard: everything that a mouse can do, but for hovering.

const STEP = 60; // px that an arrow key moves the map

export function keys(map, actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("help").open) return;
    const typing = event.target.matches("input, select");
    if (typing && event.key !== "Escape") {
      if (event.key === "Enter" && event.target.type === "search") actions.searched();
      return;
    }
    const done = event.target === map.canvas && moveMap(map, event.key) ? true : act(event.key, actions, map);
    if (done) event.preventDefault();
  });
}

function moveMap(map, key) {
  const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  if (!moves[key]) return false;
  map.moveBy(...moves[key]);
  return true;
}

function act(key, actions, map) {
  const known = {
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
    ArrowLeft: () => across(-1), ArrowRight: () => across(1),
    Escape: actions.back, "/": actions.search, "?": actions.help, o: actions.open,
    1: () => open("neighbours", actions), 2: () => open("clusters", actions), 3: () => open("furthest", actions),
    "+": () => map.zoomBy(1.5), "=": () => map.zoomBy(1.5), "-": () => map.zoomBy(1 / 1.5), 0: () => map.whole(),
  };
  const action = known[key.length === 1 ? key.toLowerCase() : key];
  if (!action) return false;
  action();
  return true;
}

function open(name, actions) {
  actions.tab(name);
  document.getElementById(`tab-${name}`).focus();
}

const listed = () => [...document.querySelectorAll("[role=tabpanel]:not([hidden]) button")];

// Focus the next or previous image of the list, or of the column.
function step(by) {
  const all = listed();
  const own = all.indexOf(document.activeElement);
  const column = all[own]?.dataset.column;
  const list = column === undefined ? all : all.filter((one) => one.dataset.column === column);
  const place = own < 0 ? 0 : Math.min(Math.max(list.indexOf(all[own]) + by, 0), list.length - 1);
  list[place]?.focus();
}

// Focus the image at the same place of the next or previous column, or switch to the tab beside.
function across(by) {
  const tab = document.activeElement.closest("[role=tab]");
  if (tab) {
    const tabs = [...document.querySelectorAll("[role=tab]")];
    const next = tabs[(tabs.indexOf(tab) + by + tabs.length) % tabs.length];
    next.click();
    next.focus();
    return;
  }
  const { column, rank } = document.activeElement.dataset;
  if (column === undefined) return step(by);
  document.querySelector(`[role=tabpanel]:not([hidden]) [data-column="${Number(column) + by}"][data-rank="${rank}"]`)?.focus();
}
