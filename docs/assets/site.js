// Wide tables, which the theme lets scroll, can be reached with the keyboard.
const reach = () => {
  for (const part of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    part.tabIndex = 0
    part.setAttribute("role", "group")
    part.setAttribute("aria-label", "Table")
  }
}
new MutationObserver(reach).observe(document.body, { childList: true, subtree: true })
reach()
