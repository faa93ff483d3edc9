// A list of any length, of which those rows exist alone that can be seen. All have the same height.

const OVERSCAN = 6;

let lists = 0;

export function put(element, text) {
  if (element.put === text) return;
  element.put = element.textContent = text;
}

// A function that has `draw` called in the next frame, or in one `ms` after the last time.
export function paced(draw, ms) {
  let next, last = -Infinity;
  const now = () => {
    next = null;
    last = performance.now();
    draw();
  };
  return () => (next ??= setTimeout(() => requestAnimationFrame(now), Math.max(0, last + ms - performance.now())));
}

export class Rows {
  // `make` returns a new row, `fill(row, item, index)` shows an item in it, `open(item)` is for Enter and clicks.
  constructor(list, { height, headRows = 0, make, fill, open, keyOf = (item) => item }) {
    Object.assign(this, { list, height, headRows, make, fill, open, keyOf });
    this.body = list.querySelector(".body");
    this.head = list.querySelector(".head");
    this.items = [];
    this.rows = [];
    this.prefix = `row-${++lists}-`;
    this.active = null; // the key of the item that the keyboard is at
    this.isFollowing = false; // whether the end stays in sight
    list.addEventListener("scroll", () => this.scrolled(), { passive: true });
    list.addEventListener("keydown", (event) => this.pressed(event));
    list.addEventListener("focus", () => this.schedule());
    this.body.addEventListener("click", ({ target }) => {
      const item = this.items[target.closest("[role=row]")?.index];
      if (item) this.choose(item);
    });
    new ResizeObserver(() => this.schedule()).observe(list);
  }

  // Show these; `dropped` of those that were shown are no longer there at the beginning.
  show(items, dropped = 0) {
    this.items = items;
    this.dropped = (this.dropped ?? 0) + dropped;
    this.schedule();
  }

  schedule() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  get isAtEnd() {
    const { scrollTop, clientHeight, scrollHeight } = this.list;
    return scrollTop + clientHeight >= scrollHeight - this.height;
  }

  scrolled() {
    if (this.list.scrollTop === this.setTo) return; // by `scrollTo`
    this.setTo = null;
    this.isFollowing = this.follows && this.isAtEnd;
    this.schedule();
  }

  toEnd() {
    this.isFollowing = this.follows;
    this.schedule();
  }

  scrollTo(top) {
    this.list.scrollTop = top;
    this.setTo = this.list.scrollTop;
  }

  draw() {
    this.frame = null;
    const { list, body, height, items, rows } = this;
    const headHeight = this.head?.offsetHeight ?? 0;
    const room = list.clientHeight - headHeight;
    if (room <= 0) return;
    body.style.height = `${items.length * height}px`;
    list.ariaRowCount = items.length + this.headRows;
    if (this.isFollowing) this.scrollTo(items.length * height - room);
    else if (this.dropped) this.scrollTo(Math.max(0, list.scrollTop - this.dropped * height));
    this.dropped = 0;
    const first = Math.max(0, Math.floor(list.scrollTop / height) - OVERSCAN);
    const last = Math.min(items.length, Math.ceil((list.scrollTop + room) / height) + OVERSCAN);
    while (rows.length < last - first) rows.push(body.appendChild(this.make()));
    let activeRow = null;
    rows.forEach((_, number) => {
      // An item keeps its row while the list is scrolled.
      const index = first + ((number - (first % rows.length) + rows.length) % rows.length);
      const row = rows[number];
      row.hidden = index >= last;
      if (row.hidden) return;
      const item = items[index];
      const isActive = this.active !== null && this.keyOf(item) === this.active;
      if (row.index !== index) {
        row.index = index;
        row.id = this.prefix + index;
        row.ariaRowIndex = index + 1 + this.headRows;
        row.style.transform = `translateY(${index * height}px)`;
      }
      row.ariaSelected = String(isActive);
      if (isActive) activeRow = row.id;
      this.fill(row, item, index);
    });
    if (activeRow) list.setAttribute("aria-activedescendant", activeRow);
    else list.removeAttribute("aria-activedescendant");
    this.onDraw?.();
  }

  choose(item) {
    this.active = this.keyOf(item);
    this.isFollowing = false; // or it would be gone in a moment
    this.open(item);
    this.schedule();
  }

  pressed(event) {
    if (event.target !== this.list || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.items.findIndex((item) => this.keyOf(item) === this.active);
    const page = Math.max(1, Math.floor(this.list.clientHeight / this.height) - 2);
    const end = this.items.length - 1;
    const to = {
      ArrowDown: at + 1,
      ArrowUp: at < 0 ? end : at - 1,
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: end,
    }[event.key];
    if (to !== undefined) this.moveTo(Math.min(end, Math.max(0, to)));
    else if (event.key === "Enter" && at >= 0) this.choose(this.items[at]);
    else return;
    event.preventDefault();
  }

  moveTo(index) {
    if (!this.items.length) return;
    const { list, height } = this;
    this.active = this.keyOf(this.items[index]);
    this.isFollowing = this.follows && index === this.items.length - 1;
    const room = list.clientHeight - (this.head?.offsetHeight ?? 0);
    const top = index * height;
    if (top < list.scrollTop) this.scrollTo(top);
    else if (top + height > list.scrollTop + room) this.scrollTo(top + height - room);
    this.onMove?.(this.items[index]);
    this.schedule();
  }
}
