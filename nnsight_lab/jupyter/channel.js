// A view's end of its wire to Python; `channel.py` is the other, and says why there are two models.
//
//   const channel = await connect(model, el, { told(kind, content, buffers), reset(), state(word) });
//   channel.say("move", { value: 3 });
//
// told: called with each message of Python's, in order. reset: forget all of them; all that count
// follow once more. state: "connecting", "live" (heard at once), "waiting" (heard when the cell that
// runs now has ended), "closed" (no kernel).

const HELLO_EVERY_MS = 400;
const HELLOS = 12;
const PATIENCE_MS = 300;
// The notebook's server keeps small messages back until the last one is acknowledged, which a browser
// with nothing to say puts off for 40 ms. So it says something until the answer has come through.
const NUDGES_MS = [8, 14, 20, 28];

export async function connect(model, el, { told, reset, state = () => {} }) {
  const view = Math.random().toString(36).slice(2);
  const hidden = document.createElement("style");
  const name = model.get("_fallback");
  // While this view is there, what stands in for it is not: itself, and the output that holds it.
  hidden.textContent = `.${name}, .jp-OutputArea-child:has(.${name}) { display: none !important; }`;
  el.append(hidden);

  const wire = { next: 0, greeted: false, beside: false, hellos: 0, pending: [], closed: false };
  const early = []; // what came before the greeting
  const held = new Map(); // what came before its turn: threads of one kernel may overtake each other
  let patience = 0;
  const drain = () => {
    clearTimeout(patience);
    for (; held.has(wire.next); wire.next++) {
      const [message, buffers] = held.get(wire.next);
      held.delete(wire.next);
      told(message.kind, message.content, buffers);
    }
    if (held.size) patience = setTimeout(skip, PATIENCE_MS);
  };
  const skip = () => {
    wire.next = Math.min(...held.keys());
    drain();
  };
  const onPublished = (message, buffers) => {
    if (!wire.greeted) {
      early.push([message, buffers || []]);
      told(message.kind, message.content, buffers || []);
    } else if (message.number >= wire.next) {
      held.set(message.number, [message, buffers || []]);
      drain();
    }
  };
  model.on("msg:custom", onPublished);

  // A kernel that is gone takes no message, and says so by throwing.
  const send = (message, buffers) => {
    try {
      control.send(message, undefined, buffers);
      return true;
    } catch {
      lost();
      return false;
    }
  };
  let nudges = [];
  const stopNudging = () => nudges.splice(0).forEach(clearTimeout);
  const lost = () => {
    stopNudging();
    clearTimeout(timer);
    state("closed");
  };
  const flush = () => {
    const waiting = wire.pending.splice(0);
    const sent = waiting.every(([message, buffers]) => send(message, buffers));
    stopNudging();
    // Only who has asked waits for an answer.
    if (sent && waiting.length && wire.beside) nudges = NUDGES_MS.map((ms) => setTimeout(() => send({ kind: "nudge" }), ms));
    return sent;
  };
  const greeted = (message, buffers) => {
    if (message.kind !== "hello" || message.view !== view || (wire.greeted && !message.beside)) return;
    wire.beside = wire.beside || message.beside;
    if (!wire.greeted) {
      wire.greeted = true;
      // Everything once more and in order: some of it came before this view was listening.
      reset();
      let at = 0;
      for (const [part, count] of message.told) {
        told(part.kind, part.content, buffers.slice(at, at + count));
        at += count;
      }
      wire.next = message.until + 1;
      for (const [part, own] of early.splice(0)) onPublished(part, own);
    }
    state(wire.beside ? "live" : "waiting");
    if (wire.beside) flush();
  };

  let control = null;
  let timer = 0;
  const hello = () => {
    if (wire.closed || wire.beside) return;
    if (wire.hellos++ < HELLOS) {
      if (!send({ kind: "hello", view })) return;
      timer = setTimeout(hello, HELLO_EVERY_MS);
    } else {
      state("waiting"); // no thread beside the cell: Notebook of an older kernel, say
      flush();
    }
  };
  const liveness = () => {
    if (!control.comm_live) return lost();
    // The kernel is there again: what it said meanwhile was lost, so everything once more.
    Object.assign(wire, { greeted: false, beside: false, hellos: 0 });
    early.push(...held.values());
    held.clear();
    clearTimeout(timer);
    hello();
  };
  state("connecting");
  try {
    control = await model.widget_manager.get_model(model.get("_control"));
    control.on("msg:custom", greeted);
    control.on("comm_live_update", liveness);
    hello();
  } catch {
    state("closed");
  }

  return {
    say(kind, content = {}, buffers = undefined) {
      if (!control || wire.closed) return false;
      wire.pending.push([{ kind, content }, buffers]);
      return wire.beside || wire.hellos > HELLOS ? flush() : true;
    },
    close() {
      wire.closed = true;
      clearTimeout(timer);
      clearTimeout(patience);
      stopNudging();
      model.off("msg:custom", onPublished);
      control?.off("msg:custom", greeted);
      control?.off("comm_live_update", liveness);
      hidden.remove();
    },
  };
}

// Keys pressed inside are not for the notebook around it. JupyterLab comes after the view, which can
// stop a key; Notebook 7 comes before it, and passes over elements that say so themselves.
export function keepKeys(root) {
  root.addEventListener("focusin", ({ target }) => target.setAttribute("data-lm-suppress-shortcuts", "true"));
}
