// One colour for each class or cluster, that can be told from the page's background in light and dark.

const NAMED = 10; // colours of the style sheet; further groups get hues of the golden angle

export function palette(count) {
  const style = getComputedStyle(document.documentElement);
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  return Array.from({ length: count }, (_, group) => {
    if (count <= NAMED) return style.getPropertyValue(`--s${group}`).trim();
    // OKLCH, in which equal lightness looks equally light: yellow stays as dark as blue
    const lightness = (isDark ? 70 : 50) + 10 * (group % 2);
    return `oklch(${lightness}% 0.15 ${Math.round(group * 137.508) % 360})`;
  });
}

export const quiet = () => getComputedStyle(document.documentElement).getPropertyValue("--ink-2").trim();

// A CSS colour as the 32-bit number of an ImageData's pixel.
export function pixel(colour, opacity = 1) {
  const context = (pixel.context ??= new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true }));
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
  return ((Math.round(opacity * 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
