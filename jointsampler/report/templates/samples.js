// The sample browser: one sample at a time, or those in which a text is found.
(() => {
  const browser = document.getElementById("sample-browser");
  if (!browser) return;
  const by = (id) => document.getElementById(`sample-${id}`);
  const samples = [...browser.querySelectorAll(".sample")];
  const texts = samples.map((sample) => [...sample.querySelectorAll("pre")].map((pre) => [pre, pre.textContent]));
  let now = 0;

  const mark = (pre, text, wanted) => {
    pre.replaceChildren();
    const parts = wanted ? text.split(wanted) : [text];
    parts.forEach((part, i) => {
      if (i) pre.append(Object.assign(document.createElement("mark"), { textContent: wanted }));
      pre.append(part);
    });
    return parts.length - 1;
  };

  function show() {
    const wanted = by("find").value;
    const found = texts.map((row) => row.map(([pre, text]) => mark(pre, text, wanted)).reduce((a, b) => a + b, 0));
    const all = by("all").checked;
    samples.forEach((sample, i) => {
      sample.hidden = wanted ? !found[i] : !all && i !== now;
    });
    const places = found.reduce((a, b) => a + b, 0);
    by("status").textContent = wanted
      ? `${places} places in ${found.filter(Boolean).length} of ${samples.length} samples`
      : all ? `All ${samples.length} samples` : `Sample ${now + 1} of ${samples.length}`;
    by("back").disabled = by("forward").disabled = Boolean(wanted) || all;
  }

  const go = (step) => {
    now = (now + step + samples.length) % samples.length;
    show();
  };
  by("back").addEventListener("click", () => go(-1));
  by("forward").addEventListener("click", () => go(1));
  by("all").addEventListener("change", show);
  by("find").addEventListener("input", show);
  by("controls").hidden = false;
  show();
})();
