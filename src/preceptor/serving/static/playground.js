/* The answers appear as they are drawn. Without this file the form is sent and the page comes back complete. */
(() => {
  "use strict";
  const form = document.querySelector("form[data-stream]");
  if (!form) return;
  const live = document.getElementById("live");
  const state = document.getElementById("live-state");
  const stop = document.getElementById("stop");
  const send = form.querySelector("[data-submit]");
  const both = form.elements.mode.value === "pair" && document.getElementById("second");
  let running = null;

  function sheet(title, blind) {
    const article = document.createElement("article");
    article.className = "answer-sheet";
    const line = document.createElement("div");
    line.className = "label-line";
    const name = document.createElement("h2");
    name.className = "letter";
    name.textContent = title;
    const words = document.createElement("div");
    words.className = "matter close";
    words.dir = "auto";
    const paragraph = document.createElement("p");
    words.append(paragraph);
    line.append(name);
    article.append(line, words);
    live.append(article);
    return paragraph;
  }

  function finish(problem) {
    running = null;
    stop.hidden = true;
    send.disabled = false;
    state.textContent = problem;
    if (!problem) return;
    live.replaceChildren();
    const notice = document.createElement("div");
    notice.className = "notice bad";
    notice.setAttribute("role", "alert");
    notice.textContent = problem;
    live.append(notice);
  }

  async function talk() {
    const body = new URLSearchParams(new FormData(form));
    live.replaceChildren();
    live.hidden = false;
    live.className = both ? "blind" : "";
    const panes = both ? { left: sheet("Left"), right: sheet("Right") } : { left: sheet("Answer") };
    running = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    state.textContent = "The answers are being written.";
    try {
      const response = await fetch(form.dataset.stream, { method: "POST", body, signal: running.signal });
      if (!response.ok) {
        const told = await response.json().catch(() => null);
        finish(told?.error?.message || "The server did not take the message. Nothing was lost; send it again.");
        return;
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        rest += value;
        const events = rest.split("\n\n");
        rest = events.pop();
        for (const one of events) {
          const news = JSON.parse(one.replace(/^data: /, ""));
          if (news.problem) { finish(news.problem); return; }
          if (news.done) {
            state.textContent = both ? "Both answers are complete." : "The answer is complete.";
            location.assign(news.done);
            return;
          }
          for (const side of Object.keys(panes)) if (news[side]) panes[side].textContent += news[side];
        }
      }
      finish("The answers broke off. Nothing was lost; send the message again.");
    } catch (error) {
      finish(error.name === "AbortError" ? "Stopped. Your message is still here." : "The server did not answer. Your message is still here.");
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) talk();
  });
  stop.addEventListener("click", () => running?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) { event.preventDefault(); running.abort(); }
  });
})();
