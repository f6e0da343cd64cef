/* Preceptor: progressive enhancement. Every form works when this file is missing.
   It adds: single-key shortcuts (can be switched off), the live order strip, word counts, a linkable key sheet,
   time on task, and what happens when a draft cannot be saved. Drafts themselves are saved by htmx attributes. */
(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const typing = (el) => el.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
  const hhmm = (date) => date.toTimeString().slice(0, 5);

  /* Key sheet: "#keys" in the address opens it, so it can be linked to. */
  const sheet = $("#keys[popover]");
  const toggleSheet = () => sheet && sheet.togglePopover && sheet.togglePopover();
  if (sheet && location.hash === "#keys") toggleSheet();

  /* Where to start reading: at the notice after a refused submit, else at the heading of the task. */
  const start = $("#problems") || (!location.hash && $(".task-head h1[tabindex]"));
  if (start) start.focus({ preventScroll: start.id !== "problems" });
  for (const field of $$("[data-select]")) field.addEventListener("focus", () => field.select());

  /* Word counts. */
  for (const area of $$("textarea[data-count]")) {
    const out = document.getElementById(area.dataset.count);
    const show = () => {
      const n = (area.value.match(/\S+/g) || []).length;
      out.textContent = `${n} ${n === 1 ? "word" : "words"}`;
    };
    area.addEventListener("input", show);
    show();
  }

  /* Time on task: seconds with the page in view and some sign of life in the last minute. */
  const spentField = $("[data-spent]");
  let active = 0, sign = Date.now();
  const sequence = $("[data-sequence]");   // saves may arrive out of order; the server keeps the last one sent
  const nextSave = () => { sequence.value = Number(sequence.value) + 1; return sequence.value; };
  if (spentField) {
    for (const kind of ["pointerdown", "keydown", "scroll", "pointermove"]) {
      document.addEventListener(kind, () => { sign = Date.now(); }, { passive: true, capture: true });
    }
    setInterval(() => { if (!document.hidden && Date.now() - sign < 60000) active += 1; }, 1000);
    spentField.form.addEventListener("submit", () => { spentField.value = active; nextSave(); left = true; });
  }

  /* Drafts: what was sent, what failed, and a last try when the page is left. */
  const saver = $("[data-autosave]");
  const form = saver && saver.closest("form");
  const saved = $("#saved"), unsaved = $("#unsaved");
  let dirty = false, left = false, since = null, sent = 0;
  if (saver) {
    form.addEventListener("input", () => { dirty = true; });
    form.addEventListener("change", () => { dirty = true; });
    document.addEventListener("htmx:configRequest", (e) => {
      if (e.target !== saver) return;
      if (left) { e.preventDefault(); return; }  // the form itself is on its way
      sent = active;
      e.detail.parameters.spent = sent;
      e.detail.parameters.sequence = nextSave();
    });
    const WHY = {
      0: "The server did not answer.",
      401: "You are signed out. Sign in again in another tab; this page then saves by itself.",
      403: "Somebody else signed in here, or your password is new. Copy what you wrote, then reload the page.",
      413: "That is too long: one page may send 2 MB at most. Shorten it.",
      429: "Too many requests came from here.",
    };
    const failed = (status) => {
      $("[data-why]", unsaved).textContent = WHY[status] || `The server answered with an error (${status}).`;
      since = since || hhmm(new Date());
      saved.textContent = `Not saved since ${since}`;
      saved.classList.add("failed");
      unsaved.hidden = false;
    };
    document.addEventListener("htmx:afterRequest", (e) => {
      if (e.target !== saver) return;
      if (!e.detail.successful) { failed(e.detail.xhr.status); return; }
      dirty = false;
      since = null;
      active = Math.max(0, active - sent);
      saved.classList.remove("failed", "none");
      unsaved.hidden = true;
    });
    setInterval(() => { if (since) form.dispatchEvent(new Event("change")); }, 10000);
    addEventListener("pagehide", () => {
      if (!dirty || left) return;
      spentField.value = active;
      nextSave();
      navigator.sendBeacon(saver.dataset.autosave, new URLSearchParams(new FormData(form)));
    });
  }

  /* Ranking: the order strip mirrors the rank numbers; it never sets one. */
  const cards = $$("[data-answer]");
  const strip = $("[data-order]");
  const rankOf = (card) => $("input:checked", card)?.value;
  function drawOrder() {
    if (!strip) return;
    for (const cell of $$("li", strip)) {
      const here = cards.filter((c) => rankOf(c) === cell.dataset.rank).map((c) => c.dataset.answer);
      const who = $("[data-who]", cell);
      who.textContent = here.length ? here.join("=") : "–";
      who.className = here.length ? "who" : "none";
    }
    const without = cards.filter((c) => !rankOf(c)).map((c) => c.dataset.answer);
    const note = $("[data-unranked]");
    const words = without.length ? `Unranked: ${without.join(", ")}` : "All ranked";
    if (note && note.textContent !== words) note.textContent = words;
  }
  document.addEventListener("change", drawOrder);
  drawOrder();

  /* Dragging is an extra: the head of an answer, dropped on a place of the strip, gets that rank. Same place: a tie. */
  let dragged = null;
  for (const card of strip ? cards : []) {
    const head = $(".label-line", card);
    head.draggable = true;
    head.addEventListener("dragstart", (e) => {
      dragged = card;
      e.dataTransfer.effectAllowed = "move";
      e.dataTransfer.setData("text/plain", card.dataset.answer);
    });
    head.addEventListener("dragend", () => { dragged = null; });
  }
  for (const cell of strip ? $$("li", strip) : []) {
    const over = (e) => { if (dragged) { e.preventDefault(); cell.classList.add("over"); } };
    cell.addEventListener("dragenter", over);
    cell.addEventListener("dragover", over);
    cell.addEventListener("dragleave", () => cell.classList.remove("over"));
    cell.addEventListener("drop", (e) => {
      e.preventDefault();
      cell.classList.remove("over");
      if (dragged) pick(dragged, cell.dataset.rank);
    });
  }

  /* Single-key shortcuts. Off switch: data-keys="off" on <html>, set by the server from the user's settings. */
  const rows = $$("[data-row]");           // rating page: quality, then each flag
  const verdict = $("[data-verdict]");
  const stops = cards.length ? cards : rows;
  let at = -1;
  const go = (i) => {
    at = Math.max(0, Math.min(stops.length - 1, i));
    ($("input:checked", stops[at]) || $("input", stops[at])).focus();
    stops[at].scrollIntoView({ block: "nearest" });
  };
  const choose = (input) => {
    if (!input) return false;
    input.checked = true;
    input.focus();
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  };
  const pick = (root, value) => choose($(`input[value="${value}"]`, root));
  document.addEventListener("focusin", (e) => {
    const i = stops.findIndex((s) => s.contains(e.target));
    if (i >= 0) at = i;
  });
  document.addEventListener("keydown", (e) => {
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
      const button = $("[data-submit]");
      if (button) { e.preventDefault(); button.click(); }
      return;
    }
    if (document.documentElement.dataset.keys === "off") return;
    if (e.ctrlKey || e.metaKey || e.altKey || typing(e.target)) return;
    if (e.key === "?") { e.preventDefault(); toggleSheet(); return; }
    if (sheet && sheet.matches(":popover-open")) return;
    const key = e.key.toLowerCase();
    let used = true;
    if (cards.length) {
      const i = cards.findIndex((c) => c.dataset.answer.toLowerCase() === key);
      if (i >= 0) go(i);
      else if (/^[1-9]$/.test(key) && at >= 0) used = pick(cards[at], key);
      else if ((key === "0" || key === "backspace") && at >= 0) {
        $$("input", cards[at]).forEach((x) => { x.checked = false; });
        cards[at].dispatchEvent(new Event("change", { bubbles: true }));
      } else if (key === "=" && at > 0 && rankOf(cards[at - 1])) used = pick(cards[at], rankOf(cards[at - 1]));
      else if (key === "x") $$("details.rest", at >= 0 ? cards[at] : document).forEach((d) => { d.open = !d.open; });
      else if (key === "j") go(at + 1);
      else if (key === "k") go(at - 1);
      else used = false;
    } else if (rows.length) {
      if (/^[1-7]$/.test(key)) used = pick(rows[0], key);
      else if (key === "y" || key === "n") { used = at > 0 && pick(rows[at], key === "y" ? "yes" : "no"); if (used) go(at + 1); }
      else if (key === "j") go(at + 1);
      else if (key === "k") go(at - 1);
      else used = false;
    } else if (verdict && /^[1-3]$/.test(key)) {
      used = choose($$("input", verdict)[Number(key) - 1]);
    } else {
      const target = /^[a-z0-9]$/.test(key) && $(`[data-key="${key}"]`);
      if (target && !target.disabled) target.click(); else used = false;
    }
    if (used) e.preventDefault();
  });
})();
