"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const made = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const key = `hier-review-${facts.key}`;
  const unwanted = ["duplicate", "leak", "outlier", "unreadable", "tiny", "blurred"];

  // What was decided: by the number of a finding, {decision, label}; and what came before, to undo.
  let decided = {};
  let place = 0;
  let kind = "";
  const past = [];

  const stored = () => {
    try { return JSON.parse(localStorage.getItem(key)) || {}; } catch { return {}; }
  };
  const keep = () => {
    try { localStorage.setItem(key, JSON.stringify(decided)); } catch { /* private browsing */ }
  };

  const numbers = () => facts.findings.map((_, number) => number)
    .filter((number) => !kind || facts.findings[number].kind === kind);

  const proposal = (one) => {
    if (unwanted.includes(one.kind)) return "Leave image out";
    if (one.kind === "merge") return `Call both ${one.proposal}`;
    if (one.kind === "split") return "Is two classes";
    return one.proposal ? `Call it ${one.proposal}` : "";
  };

  const headline = (one) => {
    const name = one.label || one.name;
    return {
      relabel: `${one.label}, or ${one.proposal}?`,
      split: `Is ${name} two classes?`,
      merge: `Are ${one.label} and ${one.proposal} one class?`,
      duplicate: "The same photo twice?",
      leak: "The same photo in two splits?",
      outlier: "Does this belong here?",
      unreadable: "Cannot be read",
      tiny: "Very few pixels",
      blurred: "Out of focus?",
      label: one.proposal ? `Is this ${one.proposal}?` : "What is this?",
    }[one.kind];
  };

  const told = (number) => {
    const own = decided[number];
    const one = facts.findings[number];
    if (!own) return ["Undecided", ""];
    if (own.decision === "reject") return ["Kept as it is", "no"];
    if (own.decision === "exclude") return ["Left out", "yes"];
    if (own.decision === "relabel") return [`Label: ${own.label}`, "yes"];
    return [proposal(one) === "Leave image out" ? "Left out" : proposal(one), "yes"];
  };

  const picture = (number, words) => {
    const data = facts.pictures[number];
    if (!data) return made("div", "Image not available", "none");
    const image = made("img");
    image.src = data;
    image.alt = words;
    return image;
  };

  const show = (focus) => {
    const some = numbers();
    place = Math.max(0, Math.min(place, some.length - 1));
    const card = at("card");
    card.replaceChildren();
    const total = facts.findings.length;
    const done = Object.keys(decided).length;
    at("progress").max = Math.max(1, total);
    at("progress").value = done;
    at("count").textContent = `${done} of ${total} decided`;
    buttons(some);
    chips();
    if (!some.length) {
      card.append(made("h2", "No findings"), made("p", "There are no findings of this kind.", "why"));
      return;
    }
    const number = some[place];
    const one = facts.findings[number];
    const [words, mood] = told(number);
    card.append(made("h2", headline(one)));
    const why = made("p", "", "why");
    const sure = one.confidence === null ? "" :
      one.of ? ` Agreement ${Math.round(100 * one.confidence)} %.` :
      ` Probability ${Math.round(100 * one.confidence)} %.`;
    const reason = one.reason ? one.reason[0].toUpperCase() + one.reason.slice(1) + "." : "";
    why.append(reason + sure + " ", made("span", words, `state ${mood}`));
    const above = one.shared && one.kind !== "split" ? ` Both belong to ${one.shared}.` : "";
    card.append(why, made("p", `${place + 1} of ${some.length}. ${one.path}.${above}`, "where"));
    const large = made("div", "", "large");
    const rest = [];
    one.shows.forEach(([caption, shown], row) => {
      const isLarge = row === 0 || (row === 1 && one.of);
      if (isLarge) {
        const figure = made("figure");
        figure.append(picture(shown[0], caption), made("figcaption", caption));
        large.append(figure);
      } else if (shown.length) {
        const line = made("div", "", "row");
        const pictures = made("div");
        shown.forEach((each) => pictures.append(picture(each, caption)));
        line.append(made("h3", caption), pictures);
        rest.push(line);
      }
    });
    const sides = made("div", "", rest.length ? "sides" : "");
    const examples = made("div");
    examples.append(...rest);
    sides.append(large, examples);
    card.append(sides);
    if (focus) card.focus({ preventScroll: true });
  };

  const buttons = (some) => {
    const number = some[place];
    const one = facts.findings[number];
    const own = decided[number] || {};
    const words = one ? proposal(one) : "";
    at("accept").hidden = !words;
    at("accept").querySelector("span").textContent = words;
    at("exclude").hidden = !one || words === "Leave image out" || ["split", "merge"].includes(one.kind);
    at("relabel").hidden = !one || ["split", "merge", "unreadable"].includes(one.kind);
    at("reject").hidden = !one;
    at("undo").disabled = !past.length;
    ["accept", "reject", "exclude", "relabel"].forEach((name) => {
      at(name).setAttribute("aria-pressed", String(own.decision === name));
    });
  };

  const kindsShown = Object.keys(facts.kinds)
    .filter((name) => facts.findings.some((one) => one.kind === name));

  const chips = () => {
    const chip = (name, words, count) => {
      const button = made("button", `${words} ${count}`);
      button.title = name ? facts.kinds[name] : "all findings";
      button.setAttribute("aria-pressed", String(kind === name));
      button.onclick = () => choose(name);
      return button;
    };
    const left = (name) => facts.findings
      .filter((one, number) => (!name || one.kind === name) && !decided[number]).length;
    at("kinds").replaceChildren(
      chip("", "all", left("")), ...kindsShown.map((name) => chip(name, name, left(name))),
    );
  };

  const choose = (name) => {
    kind = name;
    place = 0;
    const some = numbers();
    const open = some.findIndex((number) => !decided[number]);
    place = Math.max(0, open);
    naming(false);
    show(true);
  };

  const decide = (decision, label) => {
    const some = numbers();
    const number = some[place];
    if (number === undefined || (decision === "accept" && at("accept").hidden)) return;
    if (decision === "exclude" && at("exclude").hidden) return;
    past.push([number, decided[number], kind]);
    decided[number] = label ? { decision, label } : { decision };
    keep();
    const after = some.findIndex((each, row) => row > place && !decided[each]);
    const open = after >= 0 ? after : some.findIndex((each) => !decided[each]);
    if (open >= 0) place = open;
    show(true);
  };

  const undo = () => {
    if (!past.length) return;
    const [number, before, was] = past.pop();
    if (before) decided[number] = before; else delete decided[number];
    keep();
    kind = was;
    place = numbers().indexOf(number);
    show(true);
  };

  const naming = (open) => {
    at("naming").hidden = !open;
    if (!open) return;
    at("new").value = "";
    at("new").focus();
  };

  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const table = () => {
    const rows = [[...facts.columns, "decision", "new_label"]];
    facts.findings.forEach((one, number) => {
      const own = decided[number] || {};
      rows.push([...facts.columns.map((name) => one[name]), own.decision, own.label]);
    });
    return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
  };

  const save = () => {
    const link = made("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    link.download = "review.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const move = (step) => {
    naming(false);
    place += step;
    show(true);
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") { naming(false); at("card").focus(); return; }
    if (event.target.tagName === "INPUT") return;
    const act = {
      a: () => decide("accept"), r: () => decide("reject"), x: () => decide("exclude"),
      l: () => { if (!at("relabel").hidden) naming(true); }, u: undo, s: save,
      ArrowLeft: () => move(-1), ArrowRight: () => move(1), k: () => move(-1), j: () => move(1),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const digit = /^[0-9]$/.test(event.key) ? Number(event.key) : -1;
    if (act) act();
    else if (digit >= 0 && digit <= kindsShown.length) choose(digit ? kindsShown[digit - 1] : "");
    else return;
    event.preventDefault();
  });

  at("accept").onclick = () => decide("accept");
  at("reject").onclick = () => decide("reject");
  at("exclude").onclick = () => decide("exclude");
  at("relabel").onclick = () => naming(true);
  at("undo").onclick = undo;
  at("back").onclick = () => move(-1);
  at("next").onclick = () => move(1);
  at("save").onclick = save;
  at("naming").onsubmit = (event) => {
    event.preventDefault();
    const label = at("new").value.trim();
    naming(false);
    if (label) decide("relabel", label);
  };
  at("labels").append(...facts.labels.map((label) => {
    const option = made("option");
    option.value = label;
    return option;
  }));
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.dataset.theme = isDark() ? "dark" : "light";
  at("theme").onclick = () => { root.dataset.theme = isDark() ? "light" : "dark"; };

  decided = Object.fromEntries(Object.entries(stored()).filter(([number]) => facts.findings[number]));
  place = Math.max(0, numbers().findIndex((number) => !decided[number]));
  show(false);
  window.hier = {
    state: () => ({ place, kind, decided, number: numbers()[place] }), table, choose, decide, undo,
  };
})();
