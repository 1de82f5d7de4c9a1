// kumakobo.goTo({field, tab, accordions, level}): shows a field wherever it is, and lights it up for a moment.
// Parts that are folded away do not draw their fields, so they are opened from the outside to the inside.
window.kumakobo = {
  ...window.kumakobo,
  goTo({ field, tab, accordions = [], level }) {
    window.kumakobo.raise?.(level);
    const tabButton = document.getElementById(`tab_${tab}-button`);
    if (tabButton && tabButton.getAttribute("aria-selected") !== "true") tabButton.click();
    let tries = 0;
    const opened = new Set();
    const look = () => {
      for (const name of accordions) {
        const head = document.getElementById(name)?.querySelector(":scope > button.label-wrap");
        if (head && !head.classList.contains("open") && !opened.has(name) && head.getClientRects().length) {
          opened.add(name);
          head.click();
        }
      }
      const found = document.getElementById(field);
      if (!found || !found.getClientRects().length) {
        if (tries++ < 100) setTimeout(look, 60);
        return;
      }
      found.scrollIntoView({ block: "center", behavior: "smooth" });
      found.querySelector("input, textarea")?.focus({ preventScroll: true });
      found.classList.remove("kb-found");
      void found.offsetWidth; // starts the animation anew
      found.classList.add("kb-found");
      setTimeout(() => found.classList.remove("kb-found"), 2400);
    };
    setTimeout(look, 30);
  },
};
