// Reads out the content of a figure at the point that is clicked, touched or reached with the arrow keys. The page is complete without it.
for (const figure of document.querySelectorAll("figure")) {
  const data = figure.querySelector("script");
  if (!data) continue;  // a picture
  const marks = JSON.parse(data.textContent);
  const plot = figure.querySelector(".plot"), drawing = plot.querySelector("svg"), reading = figure.querySelector(".reading");
  if (!marks.length) continue;
  const { width, height } = drawing.viewBox.baseVal;
  const ring = document.createElementNS(drawing.namespaceURI, "circle");
  ring.setAttribute("class", "ring");
  ring.setAttribute("r", 5);
  const series = [...drawing.querySelectorAll("[id*='-series-']")];
  let chosen = -1;

  function choose(index) {
    chosen = Math.max(0, Math.min(marks.length - 1, index));
    const [x, y, text, number] = marks[chosen];
    ring.setAttribute("cx", x * width);
    ring.setAttribute("cy", y * height);
    drawing.append(ring);
    reading.textContent = text;
    for (const part of series) part.classList.toggle("quiet", !part.id.includes(`-series-${number}-`));
  }
  function leave() {
    chosen = -1;
    ring.remove();
    reading.textContent = "";
    for (const part of series) part.classList.remove("quiet");
  }
  function nearest(event) {
    const box = drawing.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const far = ([u, v]) => Math.hypot(u * box.width - x, v * box.height - y);
    choose(marks.reduce((best, mark, index) => (far(mark) < far(marks[best]) ? index : best), 0));
  }
  // Up and down lead to the next series, at the mark nearest to this one.
  function across(step) {
    const [x, , , number] = marks[Math.max(0, chosen)];
    const numbers = [...new Set(marks.map((mark) => mark[3]))];
    const wanted = numbers[(numbers.indexOf(number) + step + numbers.length) % numbers.length];
    const indices = [...marks.keys()].filter((index) => marks[index][3] === wanted);
    return indices.reduce((best, index) => (Math.abs(marks[index][0] - x) < Math.abs(marks[best][0] - x) ? index : best));
  }
  const keys = {
    ArrowRight: () => chosen + 1,
    ArrowLeft: () => chosen - 1,
    ArrowDown: () => across(1),
    ArrowUp: () => across(-1),
    Home: () => 0,
    End: () => marks.length - 1,
  };
  plot.tabIndex = 0;
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", "Figure: arrow keys read its values");
  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    if (!keys[event.key]) return;
    event.preventDefault();
    choose(keys[event.key]());
  });
}
