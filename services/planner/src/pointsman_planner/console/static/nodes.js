// SPDX-License-Identifier: Apache-2.0
// The grid of nodes: one small element each, made once and then changed; a page of them at a time.

export const STATES = [
  ["synced", "="], ["stale", "~"], ["nacked", "x"], ["unresponsive", "!"], ["disconnected", "-"],
];
const MARKS = new Map(STATES);
const PER_PAGE = 5000;

export class Nodes {
  constructor(grid, onChosen) {
    this.grid = grid;
    this.onChosen = onChosen;
    this.states = new Map();
    this.counts = new Map(STATES.map(([state]) => [state, 0]));
    this.cells = new Map();
    this.hidden = new Set();
    this.text = "";
    this.page = 0;
    this.current = "";
    this.chosen = "";
    this.isLaid = false;
    grid.addEventListener("keydown", (event) => this.onKey(event));
    grid.addEventListener("click", (event) => {
      if (event.target.dataset.node) this.choose(event.target.dataset.node);
    });
  }

  clear() {
    this.states.clear();
    this.isLaid = false;
  }

  take(nodes, gone) {
    for (const name of gone) this.isLaid = !this.states.delete(name) && this.isLaid;
    for (const [name, state] of nodes) {
      const before = this.states.get(name);
      this.states.set(name, state);
      const isMoved = before === undefined || (this.hidden.size > 0 && this.hidden.has(before) !== this.hidden.has(state));
      if (isMoved) this.isLaid = false;
      else if (this.cells.has(name)) this.paint(this.cells.get(name), name, state);
    }
    for (const state of this.counts.keys()) this.counts.set(state, 0);
    for (const state of this.states.values()) this.counts.set(state, this.counts.get(state) + 1);
    if (!this.isLaid) this.lay();
  }

  show({ hidden = this.hidden, text = this.text, page = 0 }) {
    [this.hidden, this.text, this.page] = [hidden, text, page];
    this.lay();
  }

  get pages() {
    return Math.max(1, Math.ceil(this.matching / PER_PAGE));
  }

  lay() {
    const names = [...this.states.keys()].filter((name) => name.includes(this.text) && !this.hidden.has(this.states.get(name)));
    names.sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
    this.matching = names.length;
    this.page = Math.min(this.page, this.pages - 1);
    this.names = names.slice(this.page * PER_PAGE, (this.page + 1) * PER_PAGE);
    const hadFocus = this.grid.contains(document.activeElement);
    const cells = new Map(this.names.map((name) => [name, this.cells.get(name) ?? this.make(name)]));
    for (const [name, cell] of cells) this.paint(cell, name, this.states.get(name));
    this.cells = cells;
    this.grid.replaceChildren(...cells.values());
    if (!cells.has(this.current)) this.current = this.names[0] ?? "";
    this.enter(this.current, hadFocus);
    this.isLaid = true;
  }

  make(name) {
    const cell = document.createElement("div");
    cell.dataset.node = name;
    cell.setAttribute("role", "option");
    cell.setAttribute("aria-selected", String(name === this.chosen));
    cell.tabIndex = -1;
    return cell;
  }

  paint(cell, name, state) {
    if (cell.dataset.state === state) return;
    cell.dataset.state = state;
    cell.className = `cell ${state}`;
    cell.textContent = MARKS.get(state) ?? "?";
    cell.title = `${name}: ${state}`;
    cell.setAttribute("aria-label", cell.title);
  }

  enter(name, takesFocus = true) {
    const before = this.cells.get(this.current);
    if (before) before.tabIndex = -1;
    this.current = name;
    const cell = this.cells.get(name);
    if (!cell) return;
    cell.tabIndex = 0;
    if (takesFocus) cell.focus();
  }

  choose(name) {
    this.cells.get(this.chosen)?.setAttribute("aria-selected", "false");
    this.chosen = name;
    this.cells.get(name)?.setAttribute("aria-selected", "true");
    this.enter(name);
    this.onChosen(name);
  }

  columns() {
    return getComputedStyle(this.grid).gridTemplateColumns.split(" ").length;
  }

  onKey(event) {
    const at = this.names.indexOf(this.current);
    const last = this.names.length - 1;
    const targets = {
      ArrowLeft: () => at - 1, ArrowRight: () => at + 1, ArrowUp: () => at - this.columns(), ArrowDown: () => at + this.columns(),
      Home: () => 0, End: () => last,
    };
    if (event.key === "Enter" || event.key === " ") this.choose(this.current);
    else if (event.key in targets) {
      const to = targets[event.key]();
      if (to >= 0 && to <= last) this.enter(this.names[to]);
    } else return;
    event.preventDefault();
  }
}
