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
