"use strict";
// The findings of a review, one at a time, by keyboard.
//
// hierReview(root, data, options) fills an element. Data: findings, kinds, labels, key and columns of
// the CSV; without columns, decisions cannot be saved. Options: title; note; notes, sentences that are
// shown above; picture(image, size) gives the address of a picture, size is small or preview;
// link(image) gives the address that a picture leads to; embedded: beside other views.
const hierReview = (root, data, options = {}) => {
  root.classList.add("review");
  root.innerHTML = `
    <header>
      <h1></h1>
      <nav id="kinds" aria-label="Kinds of findings"></nav>
      <div class="bar"><progress id="progress" aria-label="Decided" value="0" max="1"></progress>
        <span id="count"></span></div>
      <button id="save" type="button"><b>S</b>ave decisions</button>
      <button id="theme" type="button" title="Dark or light" aria-label="Dark or light">◐</button>
    </header>
    <div class="work">
      <ol id="findings" aria-label="Findings"></ol>
      <section id="card" tabindex="-1" aria-live="polite" aria-label="Finding"></section>
    </div>
    <footer>
      <form id="naming" hidden><label for="new">New label</label>
        <input id="new" list="labels" autocomplete="off"><datalist id="labels"></datalist>
        <button>Set label</button></form>
      <div id="actions">
        <button id="previous" type="button" title="Previous (←)" aria-label="Previous">←</button>
        <button id="accept" type="button"><kbd>A</kbd> <span></span></button>
        <button id="reject" type="button"><kbd>R</kbd> <span>Keep as it is</span></button>
        <button id="exclude" type="button"><kbd>X</kbd> <span>Leave image out</span></button>
        <button id="relabel" type="button"><kbd>L</kbd> <span>Other label…</span></button>
        <button id="undo" type="button"><kbd>U</kbd> <span>Undo</span></button>
        <button id="next" type="button" title="Next (→)" aria-label="Next">→</button>
      </div>
      <p><small>Keys: A, R, X and L decide. ← and → move. U undoes. S saves. 1 to 9 choose a kind,
        0 all. This browser stores your decisions as long as the findings stay the same.<span
        id="saving"> S downloads them as CSV. Then run <code>hier embed FOLDER --index INDEX --labels review.csv</code></span>.<span
        id="remark"></span></small></p>
    </footer>`;
  const at = (id) => root.querySelector(`#${id}`);
  const made = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const key = `hier-review-${data.key}`;
  const copies = ["duplicate", "leak"];
  const unwanted = [...copies, "outlier", "unreadable", "tiny", "blurred"];
  root.querySelector("h1").textContent = options.title ?? "";
  at("remark").textContent = options.note ?? "";
  if (!data.columns) { // the server keeps the paths of files to itself
    at("save").disabled = true;
    at("saving").replaceChildren(" To save them, start the server with ", made("code", "--show-paths"));
  }
  if (options.embedded) { root.querySelector("h1").remove(); at("theme").remove(); }

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

  const numbers = () => data.findings.map((_, number) => number)
    .filter((number) => !kind || data.findings[number].kind === kind);

  const proposal = (one) => {
    if (unwanted.includes(one.kind)) return "Leave image out";
    if (one.kind === "merge") return `Call both ${one.proposal}`;
    if (one.kind === "split") return "Mark as two classes";
    return one.proposal ? `Call it ${one.proposal}` : "";
  };

  const nameOf = (one) => one.label || (one.path ?? "").split("/").pop() ||
    (one.kind === "unreadable" ? "a file" : "no label");

  const headline = (one) => {
    return {
      relabel: `${one.label}, or ${one.proposal}?`,
      split: `Is ${one.label} two classes?`,
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

  const sureness = (one) => {
    if (one.confidence === null) return "";
    const percent = `${Math.round(100 * one.confidence)} %`;
    if (copies.includes(one.kind)) return ` Correlation of the pixels: ${percent}.`;
    const word = one.confidence >= 0.9 ? "Almost certain" : one.confidence >= 0.6 ? "Likely" : "Possible";
    return ` ${word}, ${percent}.`;
  };

  const told = (number) => {
    const own = decided[number];
    const one = data.findings[number];
    if (!own) return ["Undecided", ""];
    if (own.decision === "reject") return ["Kept as it is", "no"];
    if (own.decision === "exclude") return ["Left out", "yes"];
    if (own.decision === "relabel") return [`Label: ${own.label}`, "yes"];
    return [proposal(one) === "Leave image out" ? "Left out" : proposal(one), "yes"];
  };

  const picture = (image, size, words) => {
    const lost = () => made("div", words && "Image not available", words ? "none" : "thumb");
    const source = options.picture(image, size);
    if (!source) return lost();
    const shown = made("img", "", words ? "" : "thumb");
    shown.alt = words;
    shown.loading = "lazy";
    if (!words || !options.link) {
      shown.addEventListener("error", () => shown.replaceWith(lost()));
      shown.src = source;
      return shown;
    }
    const link = made("a");
    link.href = options.link(image);
    link.title = "Search for images like this one";
    link.append(shown);
    shown.addEventListener("error", () => link.replaceWith(lost()));
    shown.src = source;
    return link;
  };

  // The list of findings ---------------------------------------------------------------------------
  const lines = new Map();

  const list = (some) => {
    lines.clear();
    some.forEach((number, row) => {
      const one = data.findings[number];
      const line = made("button");
      line.type = "button";
      line.tabIndex = -1; // one of them is reached by Tab, and ← and → move
      const about = one.proposal && one.kind !== "split" ? `${one.kind}: ${one.proposal}` : one.kind;
      line.append(picture(one.examples[0].images[0], "small", ""), made("b", nameOf(one)),
        made("small", about), made("span", "", "mark"));
      line.addEventListener("click", () => { place = row; naming(false); show(true); });
      lines.set(number, line);
      mark(number);
    });
    at("findings").replaceChildren(...[...lines.values()].map((line) => {
      const item = made("li");
      item.append(line);
      return item;
    }));
  };

  const mark = (number) => {
    const sign = lines.get(number)?.querySelector(".mark");
    if (!sign) return;
    const [words, mood] = told(number);
    sign.className = `mark ${mood}`;
    sign.textContent = { yes: "✓", no: "–" }[mood] ?? "";
    sign.title = words;
  };

  const point = (number) => {
    for (const line of at("findings").querySelectorAll("[aria-current]")) {
      line.removeAttribute("aria-current");
      line.tabIndex = -1;
    }
    const line = lines.get(number);
    if (!line) return;
    line.setAttribute("aria-current", "true");
    line.tabIndex = 0;
    const box = at("findings"), above = line.offsetTop - box.offsetTop;
    if (above < box.scrollTop) box.scrollTop = above;
    else if (above + line.offsetHeight > box.scrollTop + box.clientHeight) {
      box.scrollTop = above + line.offsetHeight - box.clientHeight;
    }
  };

  // One finding ------------------------------------------------------------------------------------
  const show = (focus) => {
    const some = numbers();
    place = Math.max(0, Math.min(place, some.length - 1));
    const card = at("card");
    card.replaceChildren();
    const total = data.findings.length;
    const done = Object.keys(decided).length;
    at("progress").max = Math.max(1, total);
    at("progress").value = done;
    at("count").textContent = `${done} of ${total} decided`;
    buttons(some);
    chips();
    for (const note of options.notes ?? []) card.append(made("p", note, "where"));
    if (!some.length) {
      card.append(made("h2", "No findings"), made("p", "There are no findings of this kind.", "why"));
      return;
    }
    const number = some[place];
    const one = data.findings[number];
    point(number);
    const [words, mood] = told(number);
    card.append(made("h2", headline(one)));
    const why = made("p", "", "why");
    const reason = one.reason ? one.reason[0].toUpperCase() + one.reason.slice(1) + "." : "";
    why.append(`${reason}${sureness(one)} `, made("span", words, `state ${mood}`));
    const above = one.shared && one.kind !== "split" ? ` Both belong to ${one.shared}.` : "";
    const path = one.path ? ` ${one.path}.` : "";
    card.append(why, made("p", `${place + 1} of ${some.length}.${path}${above}`, "where"));
    const large = made("div", "", "large");
    const rest = [];
    one.examples.forEach((group) => {
      if (group.large) {
        const figure = made("figure");
        figure.append(picture(group.images[0], "preview", group.caption), made("figcaption", group.caption));
        large.append(figure);
      } else if (group.images.length) {
        const line = made("div", "", "row");
        const pictures = made("div");
        group.images.forEach((each) => pictures.append(picture(each, "small", group.caption)));
        line.append(made("h3", group.caption), pictures);
        rest.push(line);
      }
    });
    const sides = made("div", "", rest.length ? "sides" : "");
    const examples = made("div");
    examples.append(...rest);
    sides.append(large, examples);
    card.append(sides);
    const following = data.findings[some[place + 1]];
    const early = following && options.picture(following.examples[0].images[0], "preview");
    if (early) new Image().src = early; // it is there when it is wanted
    if (focus) card.focus({ preventScroll: true });
  };

  const buttons = (some) => {
    const number = some[place];
    const one = data.findings[number];
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

  const kindsShown = Object.keys(data.kinds)
    .filter((name) => data.findings.some((one) => one.kind === name));

  const chips = () => {
    const chip = (name, words, count) => {
      const button = made("button", `${words} ${count}`);
      button.type = "button";
      button.title = name ? data.kinds[name] : "all findings";
      button.setAttribute("aria-pressed", String(kind === name));
      button.onclick = () => choose(name);
      return button;
    };
    const left = (name) => data.findings
      .filter((one, number) => (!name || one.kind === name) && !decided[number]).length;
    at("kinds").replaceChildren(
      chip("", "all", left("")), ...kindsShown.map((name) => chip(name, name, left(name))),
    );
  };

  const choose = (name) => {
    kind = name;
    const some = numbers();
    place = Math.max(0, some.findIndex((number) => !decided[number]));
    naming(false);
    list(some);
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
    mark(number);
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
    if (kind !== was) { kind = was; list(numbers()); }
    mark(number);
    place = numbers().indexOf(number);
    show(true);
  };

  const naming = (open) => {
    at("naming").hidden = !open;
    if (!open) return;
    at("new").value = "";
    at("new").focus();
  };

  // Saving -----------------------------------------------------------------------------------------
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const table = () => {
    const rows = [[...data.columns, "decision", "new_label"]];
    data.findings.forEach((one, number) => {
      const own = decided[number] || {};
      rows.push([...data.columns.map((name) => one[name]), own.decision, own.label]);
    });
    return rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
  };

  const save = () => {
    if (!data.columns) return;
    const link = made("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    link.download = "review.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  // Keys and buttons -------------------------------------------------------------------------------
  const move = (step) => {
    naming(false);
    place += step;
    show(true);
  };

  const listening = new AbortController();
  document.addEventListener("keydown", (event) => {
    if (!root.offsetParent || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") { naming(false); at("card").focus(); return; }
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
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
  }, { signal: listening.signal });

  at("accept").onclick = () => decide("accept");
  at("reject").onclick = () => decide("reject");
  at("exclude").onclick = () => decide("exclude");
  at("relabel").onclick = () => naming(true);
  at("undo").onclick = undo;
  at("previous").onclick = () => move(-1);
  at("next").onclick = () => move(1);
  at("save").onclick = save;
  at("naming").onsubmit = (event) => {
    event.preventDefault();
    const label = at("new").value.trim();
    naming(false);
    if (label) decide("relabel", label);
  };
  at("labels").append(...data.labels.map((label) => {
    const option = made("option");
    option.value = label;
    return option;
  }));
  if (!options.embedded) {
    const page = document.documentElement;
    const isDark = () => (page.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    page.dataset.theme = isDark() ? "dark" : "light";
    at("theme").onclick = () => { page.dataset.theme = isDark() ? "light" : "dark"; };
  }

  decided = Object.fromEntries(Object.entries(stored()).filter(([number]) => data.findings[number]));
  place = Math.max(0, numbers().findIndex((number) => !decided[number]));
  list(numbers());
  show(false);
  // For tests, and for pages that show the review beside other things.
  return {
    state: () => ({ place, kind, decided, number: numbers()[place] }), table, choose, decide, undo,
    close: () => listening.abort(),
  };
};
