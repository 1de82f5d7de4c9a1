// kumakobo.make(tag, className, text): one element, for the scripts of all widgets. Text is set as text, never as HTML.
window.kumakobo = {
  ...window.kumakobo,
  make(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text != null) made.textContent = text;
    return made;
  },
};
