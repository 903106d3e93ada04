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

  let nudges = [];
  const stopNudging = () => nudges.splice(0).forEach(clearTimeout);
  const flush = () => {
    if (!wire.pending.length) return;
    for (const [message, buffers] of wire.pending.splice(0)) control.send(message, undefined, buffers);
    stopNudging();
    if (wire.beside) nudges = NUDGES_MS.map((ms) => setTimeout(() => control.send({ kind: "nudge" }), ms));
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
      control.send({ kind: "hello", view });
      timer = setTimeout(hello, HELLO_EVERY_MS);
    } else {
      state("waiting"); // no thread beside the cell: Notebook of an older kernel, say
      flush();
    }
  };
  state("connecting");
  try {
    control = await model.widget_manager.get_model(model.get("_control"));
    control.on("msg:custom", greeted);
    hello();
  } catch {
    state("closed");
  }

  return {
    say(kind, content = {}, buffers = undefined) {
      if (!control || wire.closed) return false;
      wire.pending.push([{ kind, content }, buffers]);
      if (wire.beside || wire.hellos > HELLOS) flush();
      return true;
    },
    close() {
      wire.closed = true;
      clearTimeout(timer);
      clearTimeout(patience);
      stopNudging();
      model.off("msg:custom", onPublished);
      if (control) control.off("msg:custom", greeted);
      hidden.remove();
    },
  };
}
