// Small thumbnails for the map: sheets of up to 64, made by the server for exactly the images that are needed.

import { sheet } from "/api.js";

const TILE = 64; // px on a sheet
const PER_LINE = 8;
const PER_SHEET = 64;
const AT_ONCE = 3; // requests; the server has few cores
const KEPT = 64; // sheets, about 1 MB each when decoded

export class Sheets {
  constructor(onLoad) {
    this.onLoad = onLoad;
    this.tiles = new Map(); // index -> {sheet, x, y}
    this.sheets = new Set(); // in order of use
    this.wanted = [];
    this.loading = 0;
    this.asked = new Set();
  }

  // Draw an image's thumbnail; false if it is not there yet.
  draw(context, index, x, y, side) {
    const tile = this.tiles.get(index);
    if (!tile) return false;
    context.drawImage(tile.sheet.picture, tile.x, tile.y, TILE, TILE, x, y, side, side);
    tile.sheet.used = true;
    return true;
  }

  // Ask for these images, the first ones first, in place of those asked for before that have not begun to load.
  want(indices) {
    this.wanted = indices.filter((index) => !this.tiles.has(index) && !this.asked.has(index));
    this.next();
  }

  next() {
    while (this.loading < AT_ONCE && this.wanted.length) this.load(this.wanted.splice(0, PER_SHEET));
  }

  async load(indices) {
    this.loading += 1;
    for (const index of indices) this.asked.add(index);
    const picture = new Image();
    picture.src = sheet(indices);
    try {
      await picture.decode();
      this.keep(picture, indices);
    } catch {
      // the server has stopped or cannot read; the dots stay
    }
    for (const index of indices) this.asked.delete(index);
    this.loading -= 1;
    this.onLoad();
    this.next();
  }

  keep(picture, indices) {
    const sheet = { picture, indices, used: true };
    this.sheets.add(sheet);
    indices.forEach((index, place) => {
      const x = (place % PER_LINE) * TILE;
      this.tiles.set(index, { sheet, x, y: Math.floor(place / PER_LINE) * TILE });
    });
    for (const old of this.sheets) {
      if (this.sheets.size <= KEPT) break;
      this.sheets.delete(old);
      if (old.used) {
        old.used = false; // drawn since it was last looked at: keep it for another round
        this.sheets.add(old);
        continue;
      }
      for (const index of old.indices) if (this.tiles.get(index)?.sheet === old) this.tiles.delete(index);
    }
  }
}
