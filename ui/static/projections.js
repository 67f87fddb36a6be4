// Puts what changes into the page of projections while somebody looks at it. The page works
// without: it is then loaded anew every other second while something runs.
(() => {
  "use strict";
  const PAUSE = 5000;
  const live = document.getElementById("projections");
  if (!live) return;
  let source = null;
  let waiting = 0;

  // Changes what differs and leaves the rest alone, so that focus and what is unfolded stay.
  const morph = (old, fresh) => {
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const mine = [...old.childNodes];
    const theirs = [...fresh.childNodes];
    theirs.forEach((node, at) => {
      const now = mine[at];
      const same = now && now.nodeName === node.nodeName && now.id === node.id;
      if (!now) old.append(node);
      else if (!same) now.replaceWith(node);
      else if (node.nodeType === Node.ELEMENT_NODE) morph(now, node);
      else if (now.data !== node.data) now.data = node.data;
    });
    mine.slice(theirs.length).forEach((node) => node.remove());
  };

  const show = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("projections");
    if (fresh) morph(live, fresh);
  };

  const leave = () => {
    clearTimeout(waiting);
    if (source) source.close();
    source = null;
  };

  const follow = () => {
    leave();
    if (document.hidden) return;
    source = new EventSource(live.dataset.follow);
    source.addEventListener("projections", (message) => show(message.data));
    source.addEventListener("error", () => {
      // A connection that broke is made anew by the browser. An answer that is no stream is not.
      if (source && source.readyState === EventSource.CLOSED) waiting = setTimeout(ask, PAUSE);
    });
  };

  // Asks the page itself: signed out, it leads to the sign-in; else following may work again.
  const ask = async () => {
    try {
      const answer = await fetch(location.href, { redirect: "manual", cache: "no-store" });
      if (answer.ok) {
        show(await answer.text());
        follow();
        return;
      }
      if (answer.type === "opaqueredirect" || answer.status < 500) {
        location.reload();
        return;
      }
    } catch {
      // The server is away; it will be back.
    }
    waiting = setTimeout(ask, PAUSE);
  };

  // Nobody looks at a hidden page, and a browser has few connections to give away.
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
  follow();
})();
