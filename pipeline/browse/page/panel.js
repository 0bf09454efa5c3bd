// The nearest images of the image that is looked at, by every teacher and student side by side.

import { image, thumbnail } from "/api.js";
import { palette } from "/colours.js";

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  const { data, ...others } = properties;
  Object.assign(made, others);
  Object.assign(made.dataset, data ?? {});
  made.append(...children);
  return made;
}

// A button that shows an image and, when it is chosen, selects it.
export function imageButton(gallery, index, text, onChoose, data = {}) {
  const label = gallery.label(index);
  const picture = element("img", { src: thumbnail(index), alt: label || `image ${index}`, loading: "lazy", width: 64, height: 64 });
  return element("button", { type: "button", className: "image", title: label, onclick: () => onChoose(index), data: { index, ...data } },
    picture, ...text);
}

// What is looked at: {index} of an image of the dataset, or {file, url} of the user's own.
export function showNeighbours(target, gallery, about, own, onChoose) {
  const sides = gallery.sides.map((side, number) => ({ ...side, ...found(about, number) }));
  target.replaceChildren(query(gallery, about, own), columns(sides, gallery, own ? -1 : about.index, onChoose));
  target.scrollTop = 0;
}

const found = (about, number) => (Array.isArray(about.found[number]) ? { near: about.found[number] } : { near: about.found[number].found, why: about.found[number].why });

function query(gallery, about, own) {
  const label = own ? "" : gallery.label(about.index);
  const name = own ? own.file.name : about.name;
  const picture = element("img", { src: own ? own.url : image(about.index), alt: own ? "your image" : label || name });
  const cluster = own || !gallery.clusters ? "" : gallery.clusterName(gallery.clusterOf[about.index]).replace(/^(?=[0-9])/, "cluster ");
  const lines = [
    element("strong", { textContent: own ? "Your image" : label || (gallery.labelled ? "no label" : `row ${about.row}`) }),
    element("span", { className: "quiet path", textContent: name }),
  ];
  if (!own) lines.push(element("span", { className: "quiet", textContent: `row ${about.row}${cluster ? `, ${cluster}` : ""}` }));
  return element("figure", { className: "query" }, picture, element("figcaption", {}, ...lines));
}

// The image under the pointer, beside it: its index, or null for none.
export function showHover(box, map, gallery, index, x, y) {
  map.canvas.classList.toggle("over", index !== null);
  box.hidden = index === null;
  if (index === null) return;
  const picture = box.querySelector("img");
  if (picture.dataset.index !== String(index)) {
    picture.dataset.index = index;
    picture.src = thumbnail(index);
    box.querySelector("span").textContent = gallery.label(index) || (gallery.clusters ? gallery.clusterName(gallery.clusterOf[index]) : "");
  }
  box.style.left = `${Math.min(x + 16, map.width - 116)}px`;
  box.style.top = `${Math.min(y + 16, map.height - 136)}px`;
}

function columns(sides, gallery, index, onChoose) {
  const colours = palette(sides.length);
  const sets = sides.map((side) => new Set((side.near ?? []).map(([one]) => one)));
  const made = sides.map((side, number) => {
    const title = element("h3", { textContent: side.name });
    title.style.borderColor = colours[number]; // that of the rings on the map
    if (!side.near) return element("section", { className: "column" }, title, element("p", { className: "quiet why", textContent: `Not shown: ${side.why}` }));
    const against = reference(sides, number);
    const shared = ([one]) => against >= 0 && sets[against].has(one);
    const items = side.near.map(([one, cosine], rank) => element("li", {}, neighbour(gallery, one, cosine, shared([one]), index, onChoose, { column: number, rank })));
    return element("section", { className: "column" }, title, summary(side, sides[against], side.near.filter(shared).length), element("ol", {}, ...items));
  });
  return element("div", { className: "columns" }, ...made);
}

// With which side's neighbours those of a side are compared: a student's with its teacher's, a teacher's with its first student's.
function reference(sides, number) {
  const other = sides[number].teacher ?? sides.findIndex((side) => side.teacher === number);
  return other >= 0 && sides[other].near ? other : -1;
}

function summary(side, other, count) {
  const text = !other ? `${side.near.length} nearest` : side.teacher === null ? `${side.near.length} nearest` : `${count} of ${side.near.length} shared with its teacher`;
  return element("p", { className: "quiet", textContent: text });
}

function neighbour(gallery, index, cosine, isShared, of, onChoose, data) {
  const label = gallery.label(index);
  const text = [element("span", { className: "cosine", textContent: cosine.toFixed(2) })];
  if (label) text.unshift(element("span", { className: "class", textContent: label }));
  if (isShared) text.push(element("span", { className: "shared", textContent: "\u2713", title: "a neighbour of both" }));
  const made = imageButton(gallery, index, text, onChoose, data);
  made.classList.toggle("both", isShared);
  made.classList.toggle("other", of >= 0 && Boolean(label) && Boolean(gallery.label(of)) && label !== gallery.label(of));
  made.title = `${label ? `${label}, ` : ""}cosine ${cosine.toFixed(3)}${isShared ? ", a neighbour of both" : ""}`;
  return made;
}
