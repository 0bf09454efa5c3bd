// Which images get a thumbnail at a given zoom: as many as fit without covering each other.

// A fixed order that mixes the images, so that those of all classes have the same chance.
export function mixed(count) {
  const order = Uint32Array.from({ length: count }, (_, index) => index);
  let seed = 1;
  for (let last = count - 1; last > 0; last -= 1) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const other = seed % (last + 1);
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

// Return the indices of points that are at least `gap` apart in x or y, in the given order: first come, first served.
// They depend on the zoom alone, not on what part of the map is seen, so that none flickers while the map is moved.
export function spread(points, order, gap, shown) {
  const taken = new Map(); // cell -> index; a cell is one gap wide, so that it has room for one image
  const found = [];
  for (const index of order) {
    if (shown && !shown[index]) continue;
    const x = points[2 * index];
    const y = points[2 * index + 1];
    const column = Math.floor(x / gap);
    const line = Math.floor(y / gap);
    if (isFree(taken, points, x, y, column, line, gap)) {
      taken.set(column * 1048576 + line, index);
      found.push(index);
    }
  }
  return found;
}

function isFree(taken, points, x, y, column, line, gap) {
  for (let i = column - 1; i <= column + 1; i += 1) {
    for (let j = line - 1; j <= line + 1; j += 1) {
      const other = taken.get(i * 1048576 + j);
      if (other === undefined) continue;
      if (Math.abs(points[2 * other] - x) < gap && Math.abs(points[2 * other + 1] - y) < gap) return false;
    }
  }
  return true;
}
