// Charts: the point under the pointer or the focus is named beside its mark. One chart is one
// stop of Tab; the arrow keys walk through its points.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  for (const chart of document.querySelectorAll("svg.chart:not(.key)")) {
    const points = [...chart.querySelectorAll(".point")];
    const { width, height } = chart.viewBox.baseVal;
    let tip = null;
    const spot = (point) => {
      const { cx, cy } = point.querySelector(".hit");
      return { x: cx.baseVal.value, y: cy.baseVal.value };
    };
    const hide = () => {
      tip?.remove();
      chart.querySelector(".now")?.classList.remove("now");
    };
    const show = (point) => {
      hide();
      point.classList.add("now");
      tip = make("g", { class: "tip", "aria-hidden": "true" });
      const box = make("rect", {});
      const lines = ["name", "value"].map((kind) => {
        const text = make("text", { class: kind });
        text.textContent = point.dataset[kind];
        return text;
      });
      tip.append(box, ...lines);
      chart.append(tip);
      const longest = Math.min(Math.max(...lines.map((t) => t.getComputedTextLength())), width - 20);
      const { x, y } = spot(point);
      const left = Math.min(Math.max(x - longest / 2 - 8, 2), width - longest - 18);
      const top = y > 62 ? y - 58 : Math.min(y + 14, height - 44);
      Object.entries({ x: left, y: top, width: longest + 16, height: 42 }).forEach(([key, value]) =>
        box.setAttribute(key, value),
      );
      lines.forEach((text, i) => {
        text.setAttribute("x", left + 8);
        text.setAttribute("y", top + 17 + 16 * i);
        if (text.getComputedTextLength() > longest) {
          text.setAttribute("textLength", longest);
          text.setAttribute("lengthAdjust", "spacingAndGlyphs");
        }
      });
    };
    const nearest = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
      let best = null;
      let least = 24;
      for (const point of points) {
        const { x, y } = spot(point);
        const away = Math.hypot(at.x - x, at.y - y);
        if (away < least) [best, least] = [point, away];
      }
      return best;
    };
    const rest = () => {
      const focused = points.find((point) => point === document.activeElement);
      if (focused) show(focused);
      else hide();
    };
    const track = (event) => {
      const point = nearest(event);
      if (point) show(point);
      else rest();
    };
    chart.addEventListener("pointermove", track);
    chart.addEventListener("pointerdown", track);
    chart.addEventListener("pointerleave", rest);
    // On the points: an SVG element that listens to focus would be a stop of Tab itself.
    for (const point of points) {
      point.addEventListener("focus", () => show(point));
      point.addEventListener("blur", hide);
    }
    chart.addEventListener("keydown", (event) => {
      const now = points.indexOf(document.activeElement);
      const to = {
        ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1,
        Home: 0, End: points.length - 1,
      }[event.key];
      if (event.key === "Escape") hide();
      if (now < 0 || to === undefined) return;
      event.preventDefault();
      const next = points[Math.min(Math.max(to, 0), points.length - 1)];
      points[now].setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  }
})();
