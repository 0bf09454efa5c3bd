// Moving and zooming the map with a mouse, a pen or fingers, and dropping a file anywhere.

const CLICK = 5; // px that a click may move

export function gestures(map, { onPoint, onChoose }) {
  const { canvas } = map;
  const down = new Map(); // pointer -> place
  let moved = 0;
  const place = (event) => [event.offsetX, event.offsetY];

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, place(event));
    if (down.size === 1) moved = 0;
    onPoint(null);
  });

  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (!down.has(event.pointerId)) {
      if (event.pointerType === "mouse") onPoint(map.imageAt(x, y), x, y);
      return;
    }
    const [left, top] = down.get(event.pointerId);
    if (down.size === 2) {
      const other = [...down].find(([pointer]) => pointer !== event.pointerId)[1];
      const before = Math.hypot(left - other[0], top - other[1]);
      const after = Math.hypot(x - other[0], y - other[1]);
      if (before > 0) map.zoomBy(after / before, (x + other[0]) / 2, (y + other[1]) / 2);
      moved = CLICK + 1;
    }
    moved += Math.abs(x - left) + Math.abs(y - top);
    if (moved > CLICK) map.moveBy((x - left) / down.size, (y - top) / down.size);
    down.set(event.pointerId, [x, y]);
  });

  canvas.addEventListener("pointerup", (event) => {
    const wasDown = down.delete(event.pointerId);
    if (!wasDown || moved > CLICK) return;
    const index = map.imageAt(...place(event));
    if (index !== null) onChoose(index);
  });

  canvas.addEventListener("pointercancel", (event) => down.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => onPoint(null));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode ? event.deltaY * 16 : event.deltaY;
    map.zoomBy(Math.exp(-lines / 400), ...place(event));
    onPoint(null);
  }, { passive: false });
}

// Show `cover` while a file is dragged over the page, and hand over the file that is dropped.
export function drops(cover, onFile) {
  let depth = 0;
  const show = (by) => {
    depth = Math.max(depth + by, 0);
    cover.hidden = depth === 0;
  };
  addEventListener("dragenter", () => show(1));
  addEventListener("dragleave", () => show(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    show(-depth);
    const [file] = event.dataTransfer.files;
    if (file) onFile(file);
  });
}
