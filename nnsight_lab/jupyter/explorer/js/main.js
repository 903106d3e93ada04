// The explorer: tabs over one selection of token, layer and head.
//
// A tab is made by a function of its `host` and gives { el, wanted, open, data, selected, draw } and,
// where it can, { shown, restore, chosen, picture, figures, key, ended }. It keeps no numbers but those
// that `data` brought, so the same messages draw it again: for a view that is mounted later, and for a
// pinned run beside another.
//
// selected: the selection may have changed, here or in another tab: draw it, or ask for what is missing.
// shown: what `wanted` was for what is seen, where the controls can be ahead of it. restore: set the
// controls as they were when something was wanted. figures: where there is not just one.

import { connect, keepKeys } from "../../channel.js";
import { h, Tip, unpacked } from "./dom.js";
import { Pins } from "./pins.js";
import { attentionTab } from "./tab_attention.js";
import { featuresTab } from "./tab_features.js";
import { lensTab } from "./tab_lens.js";
import { normsTab } from "./tab_norms.js";
import { patchingTab } from "./tab_patching.js";
import { steeringTab } from "./tab_steering.js";
import { tokensTab } from "./tab_tokens.js";
import { copied, drawn, raster, saveAs, vector } from "./take.js";

const TABS = {
  tokens: tokensTab, lens: lensTab, attention: attentionTab, patching: patchingTab, steering: steeringTab,
  norms: normsTab, features: featuresTab,
};

class Explorer {
  constructor(el) {
    this.root = el;
    this.tip = new Tip();
    this.dot = h("span", { class: "nnl-dot", title: "connecting" });
    this.title = h("span", { class: "nnl-title" });
    this.bar = h("div", { class: "nnl-tabs", role: "tablist", "aria-label": "Views", onkeydown: (event) => this.tabKey(event) });
    this.tools = h("div", { class: "nnl-tools", role: "toolbar", "aria-label": "Tools" });
    this.pins = new Pins(() => this.beside());
    this.body = h("div", { class: "nnl-body" }, this.pins.el);
    this.note = h("span", { role: "status" });
    this.stop = h("button", { class: "nnl-button", hidden: true, onclick: () => this.cancel() }, "Cancel");
    this.code = h("div", { class: "nnl-code", hidden: true });
    this.el = h("div", { class: "nnl-explorer", onkeydown: (event) => this.key(event) },
      h("div", { class: "nnl-head" }, this.bar, this.tools),
      this.body, this.code,
      h("div", { class: "nnl-foot" }, this.dot, this.title, this.note, this.stop), this.tip.el);
    keepKeys(this.el);
    this.tabs = new Map();
    this.job = 0;
    this.chosen = [];
    this.answers = new Map(); // request → what is done with the answer
    this.requests = Math.floor(Math.random() * 2 ** 40);
    // A theme says that it is there before its colours are.
    const redraw = () => this.redraw();
    this.watch = new MutationObserver(() => [0, 150, 600].forEach((wait) => setTimeout(redraw, wait)));
    this.watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  }

  // What Python tells

  told(kind, content, buffers) {
    if (kind === "about") this.begin(content);
    else if (kind === "data") this.data(content, buffers);
    else if (kind === "ended") this.ended(content);
    else if (kind === "code") this.answered(content, content.code);
    else if (kind === "picture") this.answered(content, content.svg);
    else if (kind === "chosen") this.gotChosen(content);
  }

  // What was chosen in another view, or before this one was mounted; or in this one.
  gotChosen({ positions }) {
    if (String(this.chosen) === String(positions)) return;
    this.chosen = positions;
    for (const { tab } of this.tabs.values()) tab?.chosen?.(positions);
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
        disabled: Boolean(missing), title: missing, onclick: () => this.turn(name),
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

  // A reader opens a tab: what is seen without a kernel goes along.
  turn(name) {
    this.channel.say("open", { view: name });
    this.open(name);
  }

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
    if (!held.panel) this.make(name, held);
    else held.tab.selected(this.selection);
    this.beside();
    this.status();
  }

  make(name, held) {
    held.panel = h("div", { class: "nnl-panel", role: "tabpanel", "aria-label": held.button.textContent });
    held.tab = TABS[name](this.host(name));
    held.main = h("div", { class: "nnl-main" }, held.tab.el);
    held.panel.append(h("div", { class: "nnl-sides" }, held.main));
    this.body.append(held.panel);
    if (!held.sheets.length) {
      held.tab.open();
      return;
    }
    this.feed(held.tab, held.sheets, held.sheets.at(-1).plain.wanted);
    held.tab.selected(this.selection);
  }

  feed(tab, sheets, wanted) {
    tab.restore?.(wanted);
    sheets.forEach((sheet) => tab.data(sheet));
  }

  redraw() {
    const held = this.tabs.get(this.now);
    held?.tab.draw();
    held?.pinned?.tab?.draw();
  }

  host(name) {
    const explorer = this;
    return {
      about: this.about, selection: this.selection, chosen: this.chosen, tip: this.tip,
      select: (change) => explorer.select(change),
      choose: (positions) => { explorer.chosen = positions; explorer.channel.say("choose", { positions }); },
      ask: (more = {}) => explorer.ask(name, more),
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
    this.tabs.get(this.now)?.tab.selected(this.selection);
  }

  tabKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const open = [...this.tabs].filter(([, { button }]) => !button.disabled).map(([name]) => name);
    const next = open[(open.indexOf(this.now) + step + open.length) % open.length];
    this.turn(next);
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

  // As what is seen was asked for.
  wanted() {
    const { tab } = this.tabs.get(this.now);
    return tab.shown ? tab.shown() : tab.wanted();
  }

  request(kind, view, wanted, done) {
    this.answers.set(++this.requests, done);
    this.channel.say(kind, { view, request: this.requests, wanted });
  }

  // Other views of this explorer hear it too, and have not asked.
  answered({ request, error, hint }, answer) {
    const done = this.answers.get(request);
    if (!this.answers.delete(request)) return;
    if (error) this.say(`${error} ${hint}`, true);
    else done(answer);
  }

  askCode() {
    this.request("code", this.now, this.wanted(), (code) => this.insert(code));
  }

  say(text, failed = false) {
    this.note.textContent = text;
    this.note.className = failed ? "nnl-failed" : "";
  }

  // A cell below this one where the sidebar is installed; the clipboard, and to see, everywhere.
  async insert(code) {
    const event = new CustomEvent("nnsight-lab:insert-cell", { bubbles: true, cancelable: true, composed: true, detail: { code } });
    const inserted = !this.el.dispatchEvent(event);
    const [title, box] = [h("span", {}, "…"), h("div")];
    this.below(title, box);
    const done = await copied(code, box);
    const paste = code.includes("\n# %%\n") ? "two new cells, parted at # %%" : "a new cell";
    if (inserted) title.textContent = done ? "Inserted below, and copied." : "Inserted below.";
    else title.textContent = done ? `Copied: paste it into ${paste}.` : `Not copied: this page may not. It is selected: press Ctrl+C, and paste it into ${paste}.`;
    this.say(inserted ? "code inserted below" : done ? "code copied" : "code to copy");
  }

  below(title, ...content) {
    const close = h("button", { class: "nnl-button", onclick: () => { this.code.hidden = true; } }, "Close");
    this.code.replaceChildren(h("div", { class: "nnl-head" }, title, close), ...content);
    this.code.hidden = false;
  }

  menu() {
    const [view, { tab }] = [this.now, this.tabs.get(this.now)];
    const figures = tab.figures?.() || [{ picture: tab.picture }];
    this.below(h("span", { class: "nnl-together" }, figures.flatMap(({ title = "", wanted, picture }) => {
      const name = title ? `${view}-${title}` : view;
      const make = (text, onclick) => h("button", { class: "nnl-button", "aria-label": title ? `${text}: ${title}` : null, onclick }, text);
      const ask = (kind, done) => {
        this.request(kind, view, { ...this.wanted(), ...wanted }, done);
        if (kind === "picture") this.say("drawing…");
      };
      const png = (canvas) => this.save(`${name}.png`, raster(canvas));
      return [title ? h("span", {}, title) : null,
        make("PNG", () => (picture ? png(picture()) : ask("picture", async (svg) => png(await drawn(svg))))),
        make("SVG", () => ask("picture", (svg) => this.save(`${name}.svg`, vector(svg)))),
        make("Plotly figure, as code", () => ask("figure", (code) => this.insert(code)))];
    })));
  }

  async save(name, made) {
    try {
      saveAs(name, await made);
      this.say(`saved ${name}`);
    } catch (error) {
      this.say(error.message, true);
    }
  }

  // All tabs that were open are pinned, so that the comparison goes along from tab to tab.
  pin() {
    const open = [...this.tabs].filter(([, { sheets }]) => sheets.length);
    if (!this.tabs.get(this.now)?.sheets.length) {
      this.say("nothing to pin: this tab has no numbers yet");
      return;
    }
    const sheets = Object.fromEntries(open.map(([name, held]) => [name, [...held.sheets]]));
    const wanted = Object.fromEntries(open.map(([name, { tab, sheets: own }]) => [name, tab ? tab.wanted() : own.at(-1).plain.wanted]));
    const number = this.pins.keep({ about: this.about, selection: { ...this.selection }, chosen: this.chosen, sheets, wanted });
    this.say(`pinned as ${number}: choose it under “Compare with”, in any explorer of this page`);
  }

  // The pinned run beside this one, in the tab in front.
  beside() {
    const held = this.tabs.get(this.now);
    const { chosen: pin } = this.pins;
    if (!held || (held.pinned?.pin ?? null) === pin) return;
    held.pinned?.el.remove();
    held.pinned?.here.remove();
    held.pinned = null;
    if (pin) {
      const tab = pin.sheets[this.now] && this.pinnedTab(pin);
      const el = h("div", { class: "nnl-main nnl-pinned" }, h("div", { class: "nnl-said" }, `pinned ${pin.title}`),
        tab ? tab.el : h("p", { class: "nnl-said" }, "This tab had no numbers when the run was pinned: open it there, and pin again."));
      const here = h("div", { class: "nnl-said" }, `here: ${this.title.textContent}`); // so that both begin at one height
      held.main.before(el);
      held.main.prepend(here);
      held.pinned = { pin, el, here, tab };
      if (tab) this.feed(tab, pin.sheets[this.now], pin.wanted[this.now]);
    }
    this.redraw();
  }

  pinnedTab(pin) {
    const selection = { ...pin.selection };
    const tab = TABS[this.now]({
      about: pin.about, selection, chosen: pin.chosen, tip: this.tip, ask: () => 0, choose() {}, pinned: true,
      select: (change) => { Object.assign(selection, change); tab.selected(selection); },
    });
    return tab;
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
    explorer.channel = await connect(model, el, {
      told: (kind, content, buffers) => explorer.told(kind, content, buffers),
      reset: () => {}, state: (word) => explorer.state(word),
    });
    if (explorer.now && !explorer.tabs.get(explorer.now).sheets.length) explorer.tabs.get(explorer.now).tab.open();
    return () => {
      explorer.watch.disconnect();
      explorer.pins.close();
      explorer.channel.close();
    };
  },
};
