// The step-through: the state of every method after the same number of rounds, or of tokens.
(() => {
  const source = document.getElementById("unmaskings");
  if (!source) return;
  const lanes = JSON.parse(source.textContent);
  const by = (id) => document.getElementById(id);
  const [root, at, status, play] = ["stepper", "step-at", "step-status", "step-play"].map(by);
  const SHOWN = 4; // methods at first
  const COLOURS = 8;
  const PLAY_MS = { round: 700, token: 250 };
  let timer = null;
  let drawn = []; // of the methods that are shown

  const unit = () => root.querySelector("[name=step-unit]:checked").value;
  const element = (name, looks, text = "") => {
    const made = document.createElement(name);
    made.className = looks;
    made.textContent = text;
    return made;
  };

  // What is known of a sample: its round at every reveal, its reveals after every round.
  const path = (record) => {
    const ends = [0];
    const rounds = [];
    record.rounds.forEach((count, round) => {
      ends.push(ends[round] + count);
      for (let i = 0; i < count; i++) rounds.push(round);
    });
    return { ...record, ends, rounds, reveals: record.order.length };
  };
  const revealed = (sample, step) =>
    unit() === "token"
      ? Math.min(step, sample.reveals)
      : sample.ends[Math.min(step, sample.ends.length - 1)];
  const steps = (sample) => (unit() === "token" ? sample.reveals : sample.ends.length - 1);

  const shownText = (text) => text.replaceAll("\n", "⏎\n") || "·";
  const maskText = (text) => text.replace(/[^\n]/g, "░") || "░";

  function build() {
    const row = Number(by("step-sample").value);
    const boxes = [...by("step-methods").querySelectorAll("input")];
    drawn = [];
    by("lanes").replaceChildren();
    lanes.forEach((lane, i) => {
      const sample = path(lane.rows[row]);
      if (!boxes[i].checked) return;
      const box = element("section", "lane");
      box.setAttribute("aria-label", lane.name);
      const count = element("p", "soft");
      const text = element("pre", "");
      const tokens = sample.tokens.map(() => element("span", "token"));
      text.append(...tokens);
      box.append(element("h3", "", lane.name), count, text);
      by("lanes").append(box);
      drawn.push({ name: lane.name, sample, count, tokens });
    });
    at.max = Math.max(1, ...drawn.map(({ sample }) => steps(sample)));
    if (Number(at.value) > Number(at.max)) at.value = at.max;
    draw();
  }

  function draw() {
    const step = Number(at.value);
    const told = [];
    for (const { name, sample, count, tokens } of drawn) {
      const before = revealed(sample, step - 1);
      const now = revealed(sample, step);
      const rank = new Map(sample.order.map((position, r) => [position, r]));
      tokens.forEach((span, position) => {
        const r = rank.get(position);
        const known = r !== undefined && r < now;
        const text = sample.tokens[position];
        const look = ["token"];
        if (!known) look.push("masked");
        else look.push(position >= sample.end ? "behind" : `r${sample.rounds[r] % COLOURS}`);
        if (known && step > 0 && r >= before) look.push("newest");
        span.className = look.join(" ");
        span.textContent = known ? shownText(text) : maskText(text);
        span.ariaHidden = known ? null : "true";
        span.title = known ? `position ${position + 1}, reveal ${r + 1}, round ${sample.rounds[r] + 1}` : "";
      });
      const round = now ? sample.rounds[now - 1] + 1 : 0;
      count.textContent = `${now} of ${sample.reveals} tokens after ${round} of ${sample.ends.length - 1} rounds`;
      told.push(`${name}: ${now} of ${sample.reveals} tokens`);
    }
    const word = unit() === "token" ? "Token" : "Round";
    by("step-label").textContent = `${word} ${step} of ${at.max}`;
    at.setAttribute("aria-valuetext", `${word} ${step} of ${at.max}`);
    status.textContent = `After ${word.toLowerCase()} ${step}: ${told.join("; ")}.`;
  }

  function go(by) {
    at.value = Number(at.value) + by;
    draw();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    status.setAttribute("aria-live", "polite");
  }

  function start() {
    if (at.value === at.max) at.value = 0;
    status.setAttribute("aria-live", "off"); // no screen reader could keep up
    play.textContent = "Pause";
    draw();
    timer = setInterval(() => {
      go(1);
      if (at.value === at.max) stop();
    }, PLAY_MS[unit()]);
  }

  lanes[0].rows.forEach((_, i) => by("step-sample").append(new Option(i + 1, i)));
  lanes.forEach((lane, i) => {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: i < SHOWN });
    label.append(box, lane.name);
    by("step-methods").append(label);
  });
  at.addEventListener("input", () => (stop(), draw()));
  by("step-back").addEventListener("click", () => (stop(), go(-1)));
  by("step-forward").addEventListener("click", () => (stop(), go(1)));
  play.addEventListener("click", () => (timer ? stop() : start()));
  by("step-sample").addEventListener("change", () => (stop(), build()));
  by("step-methods").addEventListener("change", build);
  root.querySelectorAll("[name=step-unit]").forEach((box) =>
    box.addEventListener("change", () => {
      stop();
      at.value = 0;
      build();
    }),
  );
  root.hidden = false;
  build();
})();
