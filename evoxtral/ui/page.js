// Behaviour of the page that runs in the browser. MAX_RESULTS and MAX_CHARACTERS come before this file.

// Buttons inside HTML that is drawn later, too.
document.addEventListener("click", async event => {
  const copy = event.target.closest("[data-copy]"), insert = event.target.closest("[data-insert]");
  if (copy) {
    const label = copy.dataset.label ??= copy.textContent;
    // Browsers give a clipboard only to pages from https or localhost.
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

// The reference that the visitor typed; not one that an example or a script filled in.
const typed = {reference: ""};
document.addEventListener("input", event => {
  if (event.target.closest("#reference")) typed.reference = event.target.value;
});

// The recorder accepts any file: Gradio's accepts only files that the browser calls audio, and a browser calls every
// WebM and MP4 video. So each file is passed on as audio, and the server checks its content.
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

// Tooltips of tags and scores on hover and focus, in the top layer, where nothing clips them. Screen readers read the
// element's own label.
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

// The history. Each result has its own key in the browser's storage and only changes are written: so two tabs do not
// overwrite each other's results or restore deleted ones. A result that cannot be stored (storage blocked or full) is
// kept in memory until the page is closed.
const resultStore = (() => {
  const PREFIX = "evoxtral-result-";
  const memoryOnly = new Map();

  const stored = () => {
    try {
      const keys = Object.keys(localStorage).filter(key => key.startsWith(PREFIX));
      return new Map(keys.map(key => [key.slice(PREFIX.length), localStorage.getItem(key)]));
    } catch {
      return new Map();
    }
  };
  const texts = () => new Map([...stored(), ...memoryOnly]);
  const parsed = text => {
    try { return JSON.parse(text); } catch { return null; }
  };
  const write = (id, result) => {
    const text = JSON.stringify(result);
    memoryOnly.delete(id);
    try { localStorage.setItem(PREFIX + id, text); } catch { memoryOnly.set(id, text); }
  };
  const removeOne = id => {
    memoryOnly.delete(id);
    try { localStorage.removeItem(PREFIX + id); } catch { /* then it was never there */ }
  };
  const all = () => {  // oldest first
    const results = [...texts().values()].map(parsed).filter(result => result?.id);
    const moment = result => `${result.time} ${result.id}`;
    return results.sort((one, other) => moment(one) < moment(other) ? -1 : 1);
  };
  const evict = newest => {
    const results = texts();
    let room = [...results.values()].reduce((sum, text) => sum - text.length, MAX_CHARACTERS);
    let spare = MAX_RESULTS - results.size;
    for (const {id} of all()) {
      if (room >= 0 && spare >= 0) return;
      if (id === newest) continue;
      removeOne(id);
      room += results.get(id)?.length ?? 0;
      spare += 1;
    }
  };
  const notify = () => document.dispatchEvent(new Event("resultsChanged"));
  addEventListener("storage", event => (event.key ?? PREFIX).startsWith(PREFIX) && notify());  // another tab's

  return {
    all,
    isComplete: () => memoryOnly.size === 0,
    // changes: a list of new results {add} and updates {id, reference?, edits?}; null instead of an edit undoes it.
    apply(changes) {
      for (const {add, id, reference, edits} of changes ?? []) {
        if (add) {
          write(add.id, add);
          evict(add.id);
          continue;
        }
        const result = parsed(texts().get(id) ?? null);
        if (!result) continue;
        result.reference = reference ?? result.reference;
        result.edits = Object.fromEntries(Object.entries({...result.edits, ...edits}).filter(([, made]) => made));
        write(id, result);
      }
      if (changes?.length) notify();
    },
    remove(ids = [...texts().keys()]) {
      ids.forEach(removeOne);
      notify();
    },
  };
})();
