// Behaviour of the page that runs in the browser. MAX_RESULTS and MAX_CHARACTERS come before this file.

// Buttons inside HTML that is drawn later, too.
document.addEventListener("click", async event => {
  const copy = event.target.closest("[data-copy]"), insert = event.target.closest("[data-insert]");
  if (copy) {
    const label = copy.dataset.label ??= copy.textContent;
    // Browsers give a clipboard only to pages from https or localhost.
    const copied = await navigator.clipboard?.writeText(copy.dataset.copy).then(() => true, () => false);
    copy.textContent = copied ? copy.dataset.copied ?? "Copied" : "The browser forbids it";
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

// A word or tag that is clicked is heard, by the recorder's own player; what is being played is marked in every column,
// and the waveform shows the tags of the last one. Arrow keys go from word to word, Enter plays. WaveSurfer is a shadow
// tree whose parts have names; its progress tells the time.
(() => {
  const part = name => document.querySelector("#clip #waveform > div")?.shadowRoot?.querySelector(`[part="${name}"]`);
  const button = () => document.querySelector("#clip .play-pause-button");
  const isPlaying = () => button()?.ariaLabel === "Pause";
  const seconds = () => Number(document.querySelector("#columns .ev-column")?.dataset.seconds || 0);
  // The recorder may have another clip by now.
  const isThere = () => {
    const [minutes, rest] = (document.querySelector("#clip #duration")?.textContent ?? "").split(":").map(Number);
    return seconds() > 0 && part("wrapper") && Math.abs(60 * minutes + rest - seconds()) <= 1;
  };
  let end = Infinity, timer = 0, since = 0;
  const mark = now => {
    for (const word of document.querySelectorAll("#columns [data-from]")) {
      const inside = word.dataset.from <= now && now < word.dataset.to;
      if (word.classList.contains("ev-now") !== inside) word.classList.toggle("ev-now", inside);
    }
  };
  const follow = () => {
    const now = parseFloat(part("progress")?.style.width || 0) / 100 * seconds();
    if (isPlaying() && now >= end) button().click();
    if (!isPlaying() && performance.now() - since > 1000) {
      clearInterval(timer);
      timer = 0;
      mark(-1);
    } else mark(now);
  };
  const watch = () => {
    since = performance.now();
    if (isThere()) timer ||= setInterval(follow, 50);
  };
  const hear = word => {
    if (!isThere()) return;
    const {left, top, width} = part("wrapper").getBoundingClientRect();
    const at = {clientX: left + width * word.dataset.from / seconds(), clientY: top + 2, bubbles: true};
    part("wrapper").dispatchEvent(new MouseEvent("click", at));
    end = Math.max(Number(word.dataset.to), Number(word.dataset.from) + 0.25);
    if (!isPlaying()) button().click();
    watch();
  };
  document.addEventListener("click", event => {
    const word = event.target.closest?.("[data-from]");
    if (word && getSelection().isCollapsed) hear(word);
    else if (event.target.closest?.("#clip")) {
      if (event.isTrusted) end = Infinity;
      watch();
    }
  });
  document.addEventListener("keydown", event => {
    const text = event.target.closest?.("#columns .ev-text");
    if (!text || event.target.matches("textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (["Enter", " "].includes(event.key) && event.target.matches("[data-from]")) {
      event.preventDefault();
      hear(event.target);
    }
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    const words = step ? [...text.querySelectorAll("[data-from]")] : [];
    if (!words.length) return;
    event.preventDefault();
    const next = words[Math.max(0, Math.min(words.length - 1, words.indexOf(event.target) + step))];
    if (next.matches(".ev-word")) next.tabIndex = -1;
    next.setAttribute("role", "button");
    next.focus();
  });

  // Where tags sound, on the waveform. The recorder draws itself anew when it likes: look now and then.
  setInterval(() => {
    const place = document.querySelector("#clip .waveform-container");
    const column = document.querySelector("#columns .ev-column:last-child");
    const tags = place && column?.dataset.seconds && isThere() ? [...column.querySelectorAll(".ev-tag[data-from]")] : [];
    const key = tags.map(tag => `${tag.textContent} ${tag.dataset.from}`).join();
    const drawn = place?.querySelector(".ev-sounds");
    if (!place || (drawn?.dataset.key ?? "") === key) return;
    drawn?.remove();
    const bars = Object.assign(document.createElement("div"), {className: "ev-sounds", ariaHidden: "true"});
    bars.dataset.key = key;
    for (const tag of tags) {
      const bar = document.createElement("i"), {from, to, tip} = tag.dataset;
      bar.className = [...tag.classList].filter(name => name !== "ev-differs" && name !== "ev-now").join(" ");
      Object.assign(bar.dataset, {from, to, tip});
      bar.style.left = `${100 * from / seconds()}%`;
      bar.style.width = `${100 * (to - from) / seconds()}%`;
      bars.append(bar);
    }
    place.append(bars);
  }, 400);
})();
