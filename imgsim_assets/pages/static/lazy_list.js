// A long list of which only the part near the window is in the document.
import { element } from "./dom.js";

const MARGIN = "1500px";

export class LazyList {
  /**
   * @param parent the element that holds the list.
   * @param draw (entry) => the element of an entry.
   * @param options `block` entries are drawn together, in a `tag` of class `blockClass` that is about
   *   `height` pixels high.
   */
  constructor(parent, draw, { block = 24, tag = "div", blockClass = "block", height = 1200 } = {}) {
    Object.assign(this, { parent, draw, block, tag, blockClass, height, entries: [], blocks: [] });
    this.observer = new IntersectionObserver((changes) => this.follow(changes), { rootMargin: MARGIN });
  }

  /** Show other entries, from the first. */
  show(entries) {
    this.observer.disconnect();
    this.entries = entries;
    this.blocks = [];
    for (let start = 0; start < entries.length; start += this.block) {
      const created = element(this.tag, { class: this.blockClass });
      created.style.minHeight = `${this.height}px`;
      created.dataset.start = start;
      this.blocks.push(created);
    }
    this.parent.replaceChildren(...this.blocks);
    if (this.blocks.length) this.fill(this.blocks[0]);
    for (const created of this.blocks) this.observer.observe(created);
  }

  /** The element of the entry at a position, which is drawn if it is not yet. */
  at(position) {
    const block = this.blocks[Math.floor(position / this.block)];
    this.fill(block);
    return block.children[position % this.block];
  }

  /** The position of the entry that holds an element; -1 of any other element. */
  positionOf(target) {
    const block = target.closest?.("[data-start]");
    if (!block || !this.blocks.includes(block)) return -1;
    const child = [...block.children].findIndex((each) => each.contains(target));
    return child < 0 ? -1 : Number(block.dataset.start) + child;
  }

  follow(changes) {
    for (const { target, isIntersecting } of changes) {
      if (isIntersecting) this.fill(target);
      else this.empty(target);
    }
  }

  fill(block) {
    if (block.childElementCount) return;
    const start = Number(block.dataset.start);
    const entries = this.entries.slice(start, start + this.block);
    block.append(...entries.map((entry) => this.draw(entry)));
    block.style.minHeight = "";
  }

  empty(block) {
    if (!block.childElementCount || block.contains(document.activeElement)) return;
    block.style.minHeight = `${block.offsetHeight}px`;
    block.replaceChildren();
  }
}
