// What the page does in the browser by itself. MAX_RESULTS and MAX_CHARACTERS come before this file.

// One listener serves every button of drawn HTML, whenever it is drawn.
document.addEventListener("click", async event => {
  const copy = event.target.closest("[data-copy]"), insert = event.target.closest("[data-insert]");
  if (copy) {
    const label = copy.dataset.label ??= copy.textContent;
    // A page that is not served over https, nor from this machine, has no clipboard.
    const copied = await navigator.clipboard?.writeText(copy.dataset.copy).then(() => true, () => false);
    copy.textContent = copied ? "Copied" : "The browser forbids it";
    setTimeout(() => { copy.textContent = label; }, 1500);
  } else if (insert) {
    const script = document.querySelector("#script textarea");
    script.setRangeText(insert.dataset.insert, script.selectionStart, script.selectionEnd, "end");
    script.dispatchEvent(new Event("input", {bubbles: true}));
    script.focus();
  }
});

// What the visitor has typed as the reference; what an example or a script has put there is not among it.
const typed = {reference: ""};
document.addEventListener("input", event => {
  if (event.target.closest("#reference")) typed.reference = event.target.value;
});

// The recorder takes any file. Gradio's own takes only what the browser calls audio, and to a browser a WebM or an MP4
// is video, whatever is in it; so each file is handed on as audio. The server looks inside, and says what is none.
(() => {
  const isChooser = target => target.matches?.('#clip input[type="file"]');
  const refused = files => [...files].some(file => !file.type.startsWith("audio/"));
  const asAudio = files => {
    const taken = new DataTransfer();
    for (const file of files) taken.items.add(new File([file], file.name, {type: "audio/*"}));
    return taken;
  };
  document.addEventListener("click", ({target}) => {  // before the browser's dialog, which hides other kinds
    if (isChooser(target)) target.accept = "audio/*,video/*";
  }, true);
  document.addEventListener("change", ({target}) => {
    if (isChooser(target) && refused(target.files)) target.files = asAudio(target.files).files;
  }, true);
  document.addEventListener("drop", event => {
    if (!event.target.closest?.("#clip") || !refused(event.dataTransfer.files)) return;
    event.preventDefault();
    event.stopPropagation();
    const dataTransfer = asAudio(event.dataTransfer.files);
    event.target.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer}));
  }, true);
})();

// What a tag or a score says of itself stands above it while it has the pointer or the focus, in the top layer: nothing
// cuts it off there. A screen reader has it from the element itself.
(() => {
  const tip = Object.assign(document.createElement("div"), {id: "ev-tip", popover: "manual", ariaHidden: "true"});
  const hide = () => tip.matches(":popover-open") && tip.hidePopover();
  const show = event => {
    hide();
    const owner = event.target.closest?.("[data-tip]");
    if (!owner) return;
    document.querySelector(".gradio-container").append(tip);
    tip.textContent = owner.dataset.tip;
    tip.showPopover();
    const place = owner.getBoundingClientRect(), {width, height} = tip.getBoundingClientRect();
    const above = place.top - height - 6;
    tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - width - 8))}px`;
    tip.style.top = `${above >= 8 ? above : place.bottom + 6}px`;
  };
  for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, show);
  for (const kind of ["focusout", "scroll"]) document.addEventListener(kind, hide, true);
  document.addEventListener("keydown", event => event.key === "Escape" && hide());
})();

// What clips gave. Each result has a key of its own in the browser's storage, and only what has changed of it is
// written: so two tabs never write over each other's results, and what one has deleted the other does not bring back.
// A result that the browser does not take (storage blocked, or full) stays in the page.
const kept = (() => {
  const PREFIX = "evoxtral-result-";
  const unkept = new Map();

  const stored = () => {
    try {
      const keys = Object.keys(localStorage).filter(key => key.startsWith(PREFIX));
      return new Map(keys.map(key => [key.slice(PREFIX.length), localStorage.getItem(key)]));
    } catch {
      return new Map();
    }
  };
  const texts = () => new Map([...stored(), ...unkept]);
  const parsed = text => {
    try { return JSON.parse(text); } catch { return null; }
  };
  const write = (id, result) => {
    const text = JSON.stringify(result);
    unkept.delete(id);
    try { localStorage.setItem(PREFIX + id, text); } catch { unkept.set(id, text); }
  };
  const remove = id => {
    unkept.delete(id);
    try { localStorage.removeItem(PREFIX + id); } catch { /* then it was never there */ }
  };
  const all = () => {  // oldest first
    const results = [...texts().values()].map(parsed).filter(result => result?.id);
    const moment = result => `${result.time} ${result.id}`;
    return results.sort((one, other) => moment(one) < moment(other) ? -1 : 1);
  };
  const tidy = newest => {
    const results = texts();
    let room = [...results.values()].reduce((sum, text) => sum - text.length, MAX_CHARACTERS);
    let spare = MAX_RESULTS - results.size;
    for (const {id} of all()) {
      if (room >= 0 && spare >= 0) return;
      if (id === newest) continue;
      remove(id);
      room += results.get(id)?.length ?? 0;
      spare += 1;
    }
  };
  const told = () => document.dispatchEvent(new Event("kept"));
  addEventListener("storage", event => (event.key ?? PREFIX).startsWith(PREFIX) && told());  // another tab's

  return {
    all,
    isWhole: () => unkept.size === 0,
    // changes: each a new result, {add}, or what is new in one, {id, reference?, edits?}; an edit of null is undone.
    change(changes) {
      for (const {add, id, reference, edits} of changes ?? []) {
        if (add) {
          write(add.id, add);
          tidy(add.id);
          continue;
        }
        const result = parsed(texts().get(id) ?? null);
        if (!result) continue;
        result.reference = reference ?? result.reference;
        result.edits = Object.fromEntries(Object.entries({...result.edits, ...edits}).filter(([, made]) => made));
        write(id, result);
      }
      if (changes?.length) told();
    },
    forget(ids = [...texts().keys()]) {
      ids.forEach(remove);
      told();
    },
  };
})();
