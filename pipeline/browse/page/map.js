// The map: a dot for every image, thumbnails where there is room, and marks on the image that is looked at.

import { pixel } from "/colours.js";
import { mixed, spread } from "/spread.js";

const MARGIN = 0.93; // share of the shorter side that the whole map takes
const LARGEST = 400; // zoom
const GLIDE_MS = 700; // of points to their place on another map
const SETTLED_MS = 90; // after which thumbnails are asked for
const REACH = 14; // px from the pointer to the dot it means

export class ImageMap {
  // covered: returns how many px at the top lie under something else; the whole map keeps clear of them.
  constructor(canvas, sheets, covered) {
    this.canvas = canvas;
    this.covered = covered;
    this.context = canvas.getContext("2d");
    this.sheets = sheets;
    this.points = new Float32Array();
    this.colours = new Uint32Array(); // of each image, as pixels
    this.shown = null; // Uint8Array of 0 and 1, or null for all
    this.marks = { image: null, near: new Map() }; // near: index -> colour of the ring
    this.zoom = 1;
    this.centre = [0, 0];
    this.top = 0;
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  resize() {
    const scale = devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.max(1, Math.round(this.width * scale));
    this.canvas.height = Math.max(1, Math.round(this.height * scale));
    this.dots = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.dots.data.buffer);
    this.draw();
  }

  get scale() { // px per unit of the map
    return (this.zoom * MARGIN * Math.min(this.width, this.height - this.top)) / 2;
  }

  get middle() {
    return [this.width / 2, (this.top + this.height) / 2];
  }

  place(index) {
    return this.at(this.points[2 * index], this.points[2 * index + 1]);
  }

  at(x, y) {
    const [left, top] = this.middle;
    return [left + (x - this.centre[0]) * this.scale, top + (y - this.centre[1]) * this.scale];
  }

  // Show other points of the same images; they glide there unless the user wants no motion.
  show(points) {
    this.order ??= mixed(points.length / 2);
    const from = this.points;
    this.goal = points;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (still || from.length !== points.length) {
      this.points = points;
      this.changed();
      return;
    }
    const begun = performance.now();
    const step = (now) => {
      if (this.goal !== points) return; // others are to be shown by now
      const share = Math.min((now - begun) / GLIDE_MS, 1);
      const eased = share * share * (3 - 2 * share);
      this.points = share === 1 ? points : points.map((value, i) => from[i] + (value - from[i]) * eased);
      this.changed();
      if (share < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  changed() {
    this.spreadAt = null;
    this.draw();
  }

  filter(shown) {
    this.shown = shown;
    this.changed();
  }

  draw() {
    if (this.drawing || !this.dots) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = null;
      this.paint();
    });
  }

  paint() {
    this.top = this.covered();
    this.pixels.fill(0);
    this.paintDots();
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.putImageData(this.dots, 0, 0);
    const scale = devicePixelRatio || 1;
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.paintThumbnails();
    this.canvas.dataset.painted = String(this.points.length / 2);
  }

  paintDots() {
    const { colours, shown, points, pixels } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [this.canvas.width, this.canvas.height];
    const small = points.length > 40000 ? 2 : points.length > 6000 ? 3 : 5; // px; points has two numbers for each image
    const size = Math.max(2, Math.round(small * ratio * Math.min(1 + this.zoom / 12, 2.2)));
    const [left, top] = this.at(0, 0);
    const k = this.scale * ratio;
    const faint = pixel(getComputedStyle(this.canvas).getPropertyValue("--faint"));
    for (const pass of shown ? [0, 1] : [1]) {
      for (let i = 0; i < colours.length; i += 1) {
        if (shown && shown[i] !== pass) continue;
        const x = Math.round(left * ratio + points[2 * i] * k - size / 2);
        const y = Math.round(top * ratio + points[2 * i + 1] * k - size / 2);
        if (x < 0 || y < 0 || x + size > width || y + size > height) continue;
        const colour = pass ? colours[i] : faint;
        for (let line = y; line < y + size; line += 1) pixels.fill(colour, line * width + x, line * width + x + size);
      }
    }
  }

  get side() { // px of a thumbnail on the map
    return Math.min(36 + 6 * Math.log2(this.zoom), 60);
  }

  paintThumbnails() {
    const gap = (this.side * 1.15) / this.scale;
    if (this.spreadAt !== gap) {
      this.spreadAt = gap;
      this.chosen = spread(this.points, this.order ?? [], gap, this.shown);
    }
    this.line = getComputedStyle(this.canvas).getPropertyValue("--line");
    const { image, near } = this.marks;
    const marked = [...near.keys()].filter((index) => index !== image);
    const missing = [];
    for (const index of this.chosen) if (!near.has(index) && index !== image) this.paintThumbnail(index, missing);
    for (const index of marked.reverse()) this.paintThumbnail(index, missing, near.get(index), 3);
    if (image !== null) this.paintThumbnail(image, missing, getComputedStyle(this.canvas).color, 4);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.sheets.want(missing.reverse()), SETTLED_MS);
  }

  paintThumbnail(index, missing, ring, thickness = 0) {
    const [x, y] = this.place(index);
    const side = this.side;
    if (x < -side || y < -side || x > this.width + side || y > this.height + side) return;
    const there = this.sheets.draw(this.context, index, x - side / 2, y - side / 2, side);
    if (!there) missing.push(index);
    if (!there && !ring) return;
    const out = ring ? 1 : 0;
    this.context.strokeStyle = ring ?? this.line;
    this.context.lineWidth = thickness || 1;
    this.context.strokeRect(x - side / 2 - out, y - side / 2 - out, side + 2 * out, side + 2 * out);
  }

  // Return the image at a place on the canvas, or null: a thumbnail that covers it, else the nearest dot.
  imageAt(x, y) {
    let best = null;
    let least = REACH;
    const half = this.side / 2;
    for (const index of this.chosen ?? []) {
      const [left, top] = this.place(index);
      if (Math.abs(left - x) <= half && Math.abs(top - y) <= half && this.sheets.tiles.has(index)) best = index;
    }
    if (best !== null) return best;
    for (let index = 0; index < this.points.length / 2; index += 1) {
      if (this.shown && !this.shown[index]) continue;
      const [left, top] = this.place(index);
      const distance = Math.hypot(left - x, top - y);
      if (distance < least) [best, least] = [index, distance];
    }
    return best;
  }

  // Zoom by a factor about a place on the canvas, which stays where it is.
  zoomBy(factor, x = this.middle[0], y = this.middle[1]) {
    const [left, top] = this.middle;
    const before = this.scale;
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.6), LARGEST);
    const change = 1 / before - 1 / this.scale;
    this.centre = [this.centre[0] + (x - left) * change, this.centre[1] + (y - top) * change];
    this.draw();
  }

  moveBy(x, y) {
    this.centre = [this.centre[0] - x / this.scale, this.centre[1] - y / this.scale];
    this.draw();
  }

  whole() {
    this.zoom = 1;
    this.centre = [0, 0];
    this.draw();
  }

  // Bring an image into view if it is not.
  reveal(index) {
    const [x, y] = this.place(index);
    if (x < 40 || y < this.top || x > this.width - 40 || y > this.height - 40) {
      this.centre = [this.points[2 * index], this.points[2 * index + 1]];
    }
    this.draw();
  }
}
