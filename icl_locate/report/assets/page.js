// Runs when the page is there: figures, and the answers once a reader comes near them.

function make(tag, options = {}, ...children) {
  const { data = {}, ...attributes } = options;
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null) element.setAttribute(name, value);
  }
  Object.assign(element.dataset, data);
  element.append(...children); // text becomes text: nothing here is ever read as HTML
  return element;
}

startFigures();
startAnswers();
