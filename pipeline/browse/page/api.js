// What the page asks the server for. Images are named by their index, a number, and by nothing else.

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; start `python cli.py browse` again and reload this page.");
  }
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

export const json = async (path) => (await ask(path)).json();

// Float32Array of n points: x, y, x, y, ...
export const floats = async (path) => new Float32Array(await (await ask(path)).arrayBuffer());

export const integers = async (path) => new Int32Array(await (await ask(path)).arrayBuffer());

// Neighbours of a file that the user chose: for each side {found} or {why}.
export const nearest = async (file) => (await ask("/nearest", { method: "POST", body: file })).json();

let pictures = ""; // the start of their addresses, which tells this gallery's from another's that the browser has kept

export const picturesOf = (token) => (pictures = `/${token}`);
export const thumbnail = (index) => `${pictures}/thumbnail/${index}`;
export const image = (index) => `${pictures}/image/${index}`;
export const sheet = (indices) => `${pictures}/sheet?images=${indices.join(",")}`;
