// Elements in one call. Text is always text: nothing that comes from a kernel is read as HTML.

type Child = Node | string;

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = '',
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

export function button(
  className: string,
  label: string,
  title: string,
  clicked: () => void
): HTMLButtonElement {
  const made = element('button', className, label);
  made.type = 'button';
  made.title = title;
  made.setAttribute('aria-label', title);
  made.addEventListener('click', event => {
    event.preventDefault();
    event.stopPropagation();
    clicked();
  });
  return made;
}

/** Change text only where it differs, so that a selection or a click is not disturbed. */
export function setText(node: Node, text: string): void {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}
