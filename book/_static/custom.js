// Boxes that scroll sideways can be reached and scrolled with the keyboard.
const scrolling = ".katex-display, .pst-scrollable-table-container, .cell_output .output, .bd-article pre";

function markScrolling() {
  for (const box of document.querySelectorAll(scrolling)) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

addEventListener("load", markScrolling);
addEventListener("resize", markScrolling);

// Under an exercise the folded code is its solution: say so.
for (const label of document.querySelectorAll("#exercises details.hide > summary p")) {
  label.textContent = label.textContent.replace("the code", "the solution’s code");
}

// "On this page" keeps the entry of what is being read in view.
const toc = document.querySelector(".bd-sidebar-secondary");
if (toc) {
  new MutationObserver(() => {
    const active = [...toc.querySelectorAll(".nav-link.active")].pop();
    if (!active) return;
    const entry = active.getBoundingClientRect(), box = toc.getBoundingClientRect();
    if (entry.bottom > box.bottom) toc.scrollTop += entry.bottom - box.bottom + 40;
    else if (entry.top < box.top) toc.scrollTop -= box.top - entry.top + 40;
  }).observe(toc, { subtree: true, attributes: true, attributeFilter: ["class"] });
}
