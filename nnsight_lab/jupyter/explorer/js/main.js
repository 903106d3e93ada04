// The explorer: tabs over one selection of token, layer and head.
//
// A tab is made by a function of its `host` and gives { el, wanted, open, data, selected, draw } and,
// where it can, { picture, key, ended }. It keeps no numbers but those that `data` brought, so the same
// messages draw it again: that is how a pinned view is shown beside another run.

import { connect } from "../../channel.js";
import { h, Tip, unpacked } from "./dom.js";
import { attentionTab } from "./tab_attention.js";
import { featuresTab } from "./tab_features.js";
import { lensTab } from "./tab_lens.js";
import { normsTab } from "./tab_norms.js";
import { patchingTab } from "./tab_patching.js";
import { steeringTab } from "./tab_steering.js";
import { tokensTab } from "./tab_tokens.js";

const TABS = {
  tokens: tokensTab, lens: lensTab, attention: attentionTab, patching: patchingTab, steering: steeringTab,
  norms: normsTab, features: featuresTab,
};
const PINS = Symbol.for("nnsight_lab.pins");
globalThis[PINS] ||= [];

class Explorer {
  constructor(el) {
    this.root = el;
    this.tip = new Tip();
    this.dot = h("span", { class: "nnl-dot", title: "connecting" });
    this.title = h("span", { class: "nnl-title" });
    this.bar = h("div", { class: "nnl-tabs", role: "tablist", "aria-label": "Views", onkeydown: (event) => this.tabKey(event) });
    this.tools = h("div", { class: "nnl-tools", role: "toolbar", "aria-label": "Tools" });
    this.body = h("div", { class: "nnl-body" });
    this.note = h("span", { role: "status" });
    this.stop = h("button", { class: "nnl-button", hidden: true, onclick: () => this.cancel() }, "Cancel");
    this.code = h("div", { class: "nnl-code", hidden: true });
    this.el = h("div", { class: "nnl-explorer", onkeydown: (event) => this.key(event) },
      h("div", { class: "nnl-head" }, this.bar, this.tools),
      this.body, this.code,
      h("div", { class: "nnl-foot" }, this.dot, this.title, this.note, this.stop), this.tip.el);
    this.tabs = new Map();
    this.job = 0;
    // A theme says that it is there before its colours are.
    const redraw = () => this.tabs.get(this.now)?.tab.draw();
    this.watch = new MutationObserver(() => [0, 150, 600].forEach((wait) => setTimeout(redraw, wait)));
    this.watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  }

  // What Python tells

  told(kind, content, buffers) {
    if (kind === "about") this.begin(content);
    else if (kind === "data") this.data(content, buffers);
    else if (kind === "ended") this.ended(content);
    else if (kind === "code") this.gotCode(content);
  }

  begin(about) {
    if (this.about) return;
    this.about = about;
    this.selection = { ...about.selection };
    this.title.textContent = `${about.edited ? "a run on " : ""}${about.model}, ${about.tokens.length} tokens`;
    for (const { name, title, missing } of about.views) {
      if (!TABS[name]) continue;
      const button = h("button", {
        role: "tab", class: "nnl-tab", "aria-selected": "false", tabindex: "-1", "data-view": name,
        disabled: Boolean(missing), title: missing, onclick: () => this.open(name),
      }, title);
      this.bar.append(button);
      this.tabs.set(name, { button, sheets: [], panel: null, tab: null, job: 0 });
    }
    this.tools.append(
      this.tool("Copy as code", "C", () => this.askCode()), this.tool("Figure", "", () => this.menu()),
      this.tool("Pin", "", () => this.pin()));
    this.root.append(this.el);
    const first = about.first || about.views.find(({ name, missing }) => TABS[name] && !missing)?.name;
    if (first) this.open(first);
    else this.note.textContent = "none of its views has a tab: see explorer.figure and explorer.code";
  }

  tool(text, key, onclick) {
    return h("button", { class: "nnl-button", onclick, title: key ? `${text} (${key})` : text }, text);
  }

  data(content, buffers) {
    const held = this.tabs.get(content.view);
    if (!held || content.job < held.job) return;
    const sheet = { plain: content, arrays: unpacked(content.arrays, buffers) };
    if (content.topic) held.sheets = held.sheets.filter(({ plain }) => plain.topic !== content.topic);
    else if (content.job !== held.job || !held.sheets.at(-1)?.plain.more) held.sheets = [];
    held.job = content.job;
    held.sheets.push(sheet);
    this.job = Math.max(this.job, content.job);
    held.tab?.data(sheet);
  }

  ended(content) {
    const held = this.tabs.get(content.view);
    if (!held || content.job !== held.asked) return;
    held.busy = false;
    held.tab?.ended?.(content);
    const cancelled = content.code_name === "cancelled";
    held.said = cancelled ? "cancelled" : content.error ? `${content.error} ${content.hint}` : "";
    held.failed = Boolean(content.error) && !cancelled;
    this.status();
  }

  status() {
    const held = this.tabs.get(this.now);
    this.stop.hidden = !held?.busy;
    this.note.textContent = held?.busy ? "running…" : held?.said || "";
    this.note.className = held?.failed ? "nnl-failed" : "";
  }

  // Tabs

  open(name) {
    const held = this.tabs.get(name);
    for (const [other, { button, panel }] of this.tabs) {
      button.setAttribute("aria-selected", String(other === name));
      button.tabIndex = other === name ? 0 : -1;
      if (panel) panel.hidden = other !== name;
    }
    this.now = name;
    this.code.hidden = true;
    this.tip.hide();
    if (held.panel) {
      held.tab.draw();
    } else {
      held.panel = h("div", { class: "nnl-panel", role: "tabpanel", "aria-label": held.button.textContent });
      held.compare = h("div", { class: "nnl-compare" });
      held.tab = TABS[name](this.host(name));
      held.main = h("div", { class: "nnl-main" }, held.tab.el);
      held.panel.append(held.compare, h("div", { class: "nnl-sides" }, held.main));
      this.body.append(held.panel);
      if (held.sheets.length) held.sheets.forEach((sheet) => held.tab.data(sheet));
      else held.tab.open();
    }
    this.pins(name);
    this.status();
  }

  host(name) {
    const explorer = this;
    return {
      about: this.about, selection: this.selection, tip: this.tip,
      select: (change) => explorer.select(change),
      choose: (positions) => explorer.channel.say("choose", { positions }),
      ask: (more = {}) => explorer.ask(name, more),
      cancel: () => explorer.channel.say("cancel", { view: name }),
      insert: (code) => explorer.insert(code),
      open: (view) => explorer.open(view),
    };
  }

  ask(name, more) {
    const held = this.tabs.get(name);
    held.asked = ++this.job;
    held.busy = true;
    held.wanted = { ...held.tab.wanted(), ...more };
    this.channel.say("ask", { view: name, job: this.job, wanted: held.wanted });
    this.status();
    return this.job;
  }

  cancel() {
    this.channel.say("cancel", { view: this.now });
  }

  select(change) {
    Object.assign(this.selection, change);
    this.channel.say("select", change);
    this.tabs.get(this.now)?.tab.selected?.(this.selection);
  }

  tabKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const open = [...this.tabs].filter(([, { button }]) => !button.disabled).map(([name]) => name);
    const next = open[(open.indexOf(this.now) + step + open.length) % open.length];
    this.open(next);
    this.tabs.get(next).button.focus();
  }

  // Keys go to the explorer, not to the notebook around it, which has commands on single letters.
  key(event) {
    event.stopPropagation();
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (this.tabs.get(this.now)?.tab.key?.(event)) event.preventDefault();
    else if (event.key === "c") this.askCode();
    else if (event.key === "Escape") this.tip.hide();
  }

  // Code, figures, pins

  askCode() {
    const held = this.tabs.get(this.now);
    this.channel.say("code", { view: this.now, request: ++this.job, wanted: held.tab.wanted() });
  }

  gotCode({ code, error, hint }) {
    if (error) {
      this.note.textContent = `${error} ${hint}`;
      return;
    }
    this.insert(code);
  }

  // A cell below this one where the sidebar is installed; the clipboard, and to see, everywhere.
  insert(code) {
    const event = new CustomEvent("nnsight-lab:insert-cell", { bubbles: true, cancelable: true, composed: true, detail: { code } });
    const inserted = !this.el.dispatchEvent(event);
    navigator.clipboard?.writeText(code).catch(() => {});
    const close = h("button", { class: "nnl-button", onclick: () => { this.code.hidden = true; } }, "Close");
    this.code.replaceChildren(
      h("div", { class: "nnl-head" }, inserted ? "Inserted below, and copied." : "Copied: paste it into a new cell.", close),
      h("pre", {}, code));
    this.code.hidden = false;
    this.note.textContent = inserted ? "code inserted below" : "code copied";
  }

  menu() {
    const { tab } = this.tabs.get(this.now);
    const save = () => {
      const link = h("a", { download: `${this.now}.png`, href: tab.picture().toDataURL("image/png") });
      link.click();
    };
    const figure = () => this.channel.say("figure", { view: this.now, request: ++this.job, wanted: tab.wanted() });
    const close = h("button", { class: "nnl-button", onclick: () => { this.code.hidden = true; } }, "Close");
    this.code.replaceChildren(h("div", { class: "nnl-head" },
      h("span", {},
        tab.picture ? h("button", { class: "nnl-button", onclick: save }, "PNG") : null,
        h("button", { class: "nnl-button", onclick: figure }, "Plotly figure, as code")), close));
    this.code.hidden = false;
  }

  pin() {
    const held = this.tabs.get(this.now);
    if (!held.sheets.length) return;
    const title = `${this.about.edited ? "run on " : ""}${this.about.model} · ${this.about.tokens.length} tokens · ${new Date().toLocaleTimeString()}`;
    globalThis[PINS].push({ view: this.now, title, about: this.about, sheets: held.sheets, selection: { ...this.selection } });
    this.note.textContent = "pinned: choose it under “compare with”, in any explorer of this page";
    globalThis.dispatchEvent(new Event("nnsight-lab:pinned"));
  }

  pins(name) {
    const held = this.tabs.get(name);
    const found = globalThis[PINS].filter(({ view }) => view === name);
    held.panel.querySelector(".nnl-pinned")?.remove();
    held.compare.replaceChildren();
    if (!found.length) return;
    const choose = h("select", { "aria-label": "Compare with", onchange: () => this.compare(held, found[choose.value]) },
      h("option", { value: "" }, "nothing"), ...found.map(({ title }, index) => h("option", { value: index }, title)));
    held.compare.append(h("label", { class: "nnl-field" }, h("span", {}, "Compare with"), choose));
  }

  compare(held, pin) {
    held.panel.querySelector(".nnl-pinned")?.remove();
    if (!pin) return held.tab.draw();
    const selection = { ...pin.selection };
    const host = {
      about: pin.about, selection, tip: this.tip, ask: () => 0, cancel() {}, insert() {}, open() {}, choose() {}, pinned: true,
      select: (change) => { Object.assign(selection, change); tab.selected?.(selection); },
    };
    const tab = TABS[pin.view](host);
    const side = h("div", { class: "nnl-main nnl-pinned" }, h("div", { class: "nnl-said" }, `pinned: ${pin.title}`), tab.el);
    held.main.before(side);
    pin.sheets.forEach((sheet) => tab.data(sheet));
    tab.draw();
    return held.tab.draw();
  }

  state(word) {
    this.dot.dataset.state = word;
    this.dot.title = {
      connecting: "connecting to the kernel", live: "live",
      waiting: "the kernel is busy: answers come when its cell has ended", closed: "no kernel",
    }[word];
  }
}

export default {
  async render({ model, el }) {
    const explorer = new Explorer(el);
    explorer.channel = { say: () => false };
    const pinned = () => explorer.now && explorer.pins(explorer.now);
    globalThis.addEventListener("nnsight-lab:pinned", pinned);
    explorer.channel = await connect(model, el, {
      told: (kind, content, buffers) => explorer.told(kind, content, buffers),
      reset: () => {}, state: (word) => explorer.state(word),
    });
    if (explorer.now && !explorer.tabs.get(explorer.now).sheets.length) explorer.tabs.get(explorer.now).tab.open();
    return () => {
      explorer.watch.disconnect();
      globalThis.removeEventListener("nnsight-lab:pinned", pinned);
      explorer.channel.close();
    };
  },
};
