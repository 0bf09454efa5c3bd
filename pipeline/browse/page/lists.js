// The other two lists: clusters, and the images on which a student fell furthest from its teacher.

import { json, thumbnail } from "/api.js";
import { element, imageButton } from "/panel.js";

export function showClusters(target, gallery, chosen, onFilter) {
  const items = gallery.clusters.map((cluster, number) => {
    const share = cluster.name ? `, ${Math.round(100 * cluster.share)} % ${cluster.name}` : "";
    const pictures = cluster.examples.map((index) => element("img", { src: thumbnail(index), alt: "", loading: "lazy", width: 44, height: 44 }));
    const button = element("button", { type: "button", className: "cluster", onclick: () => onFilter(number), data: { cluster: number } },
      element("span", { className: "name" }, element("strong", { textContent: gallery.clusterName(number) }),
        element("span", { className: "quiet", textContent: `${cluster.size.toLocaleString("en")} images${share}` })),
      element("span", { className: "examples" }, ...pictures));
    button.setAttribute("aria-pressed", String(number === chosen));
    return element("li", {}, button);
  });
  target.replaceChildren(
    element("p", { className: "quiet", textContent: `${items.length} clusters of ${gallery.sides[0].name}'s embeddings by k-means, the largest first. Choose one to see only its images.` }),
    element("ul", { className: "plain" }, ...items));
}

export async function showFurthest(target, gallery, ready, chosen, onChoose, onStudent) {
  const students = gallery.sides.map((side, number) => ({ ...side, number })).filter((side) => side.teacher !== null);
  if (!students.length) {
    target.replaceChildren(element("p", { className: "empty", textContent: "None of these students has its teacher's cache here: name that cache as well." }));
    return;
  }
  const number = students.some((side) => side.number === chosen) ? chosen : students[0].number;
  target.dataset.student = number;
  if (!ready[number]) {
    target.replaceChildren(element("p", { className: "empty", textContent: "The student is being compared with its teacher …" }));
    return;
  }
  const found = await json(`/furthest/${number}`);
  if (target.dataset.student !== String(number)) return; // another student was chosen meanwhile
  const parts = [];
  if (students.length > 1) parts.push(choice(students, number, onStudent));
  const percent = Math.round(100 * found.recall);
  parts.push(element("p", { className: "quiet", textContent:
    `${gallery.sides[number].name} finds ${percent} % of its teacher's ten nearest images, on average of ${found.compared.toLocaleString("en")} images. These are the images on which it finds fewest; among equals, the largest divergence comes first.` }));
  const items = found.worst.map(([index, recall, divergence], rank) => element("li", {},
    imageButton(gallery, index, [element("span", { className: "name" },
      element("strong", { textContent: gallery.label(index) || `image ${index}` }),
      element("span", { className: "quiet", textContent: `${Math.round(10 * recall)} of 10 in common, divergence ${divergence.toFixed(2)}` }))],
      onChoose, { column: 0, rank })));
  target.replaceChildren(...parts, element("ol", { className: "plain rows" }, ...items));
}

function choice(students, number, onStudent) {
  const select = element("select", { onchange: (event) => onStudent(Number(event.target.value)) },
    ...students.map((side) => element("option", { value: String(side.number), textContent: side.name, selected: side.number === number })));
  return element("label", { className: "choice" }, "Student ", select);
}
