// Two images to compare: side by side with a common zoom, flickering, their difference, and the
// local features that match in both.
import { element, foreignText, getJson, imageUrl, plainText } from "./dom.js";
import { frame } from "./pair.js";
import { pairImage } from "./review_queue.js";

const MAX_ZOOM = 12;
const FLICKER_MS = 600;
const SHARP_SIDE = 2048;
const COLORS = ["#ff5da2", "#35c2ff", "#ffd23f", "#5dff9b", "#ff8a3c", "#b18cff"];

/** The images of a pair in one of the views `side`, `flicker`, `difference` and `features`. */
export class Viewer {
  constructor(container, api, onImage) {
    this.container = container;
    this.api = api;
    this.onImage = onImage;
    this.view = "side";
    this.features = new Map();
    this.resetZoom();
    this.timer = null;
    this.drawing = 0;
    new ResizeObserver(() => this.redraw()).observe(container);
  }

  show(pair) {
    this.pair = pair;
    this.resetZoom();
    this.render();
  }

  setView(view) {
    this.view = view;
    this.render();
  }

  render() {
    clearInterval(this.timer);
    this.timer = null;
    this.drawing += 1;
    this.single = null; // what was loaded for another pair
    this.found = null;
    if (!this.pair) return;
    const isSingle = this.view === "flicker" || this.view === "difference";
    this.stage = element("div", { class: "stage" });
    if (isSingle) this.renderSingle();
    else this.renderSides();
    this.container.replaceChildren(this.stage);
    if (isSingle) this.startSingle();
    else if (this.view === "features") this.drawFeatures();
    this.applyZoom();
  }

  renderSides() {
    const items = element("div", { class: "pair-items" });
    for (const side of ["left", "right"]) items.append(this.figure(side));
    this.stage.append(items);
    if (this.view === "features") {
      this.caption = element("p", { class: "caption muted", text: "Comparing local features" });
      this.overlay = element("canvas", { class: "overlay", "aria-hidden": "true" });
      this.stage.append(this.overlay, this.caption);
    }
  }

  figure(side) {
    const pair = this.pair;
    const id = pair[`${side}_id`];
    const source = pairImage(pair, side);
    const alt = id === null ? "" : `${side} image, ${id}`;
    const framed = frame(source, alt, id === null ? "no candidate" : "no image");
    const image = framed.querySelector("img");
    if (image) {
      image.loading = "eager";
      image.draggable = false;
      this.makeMovable(framed);
      image.addEventListener("load", () => this.redraw());
    }
    const caption = element("figcaption", {}, element("span", { class: "side", text: side }));
    if (id !== null) caption.append(foreignText(id, 200));
    if (pair[`${side}_image`]) caption.append(element("small", { text: `image ${pair[`${side}_image`]}` }));
    return element("figure", {}, framed, caption, this.otherImages(side));
  }

  /** Buttons for the images of an item that has several. */
  otherImages(side) {
    const images = this.pair[`${side}_images`];
    if (images.length < 2) return null;
    const list = element("ul", { class: "images", "aria-label": `images of the ${side} item` });
    for (const each of images) {
      const isShown = each.image === this.pair[`${side}_image`];
      const thumbnail = frame(imageUrl(each.sha256, 96), "");
      const label = `image ${each.image}`;
      const button = element(
        "button",
        { type: "button", "aria-pressed": String(isShown), "aria-label": label, title: label, onclick: () => this.onImage(side, each) },
        thumbnail,
      );
      list.append(element("li", {}, button));
    }
    return list;
  }

  // ---- one image over the other

  renderSingle() {
    const label = this.view === "flicker" ? "left and right image in turn" : "difference of both images";
    this.canvas = element("canvas", { class: "single", role: "img", "aria-label": label });
    this.caption = element("p", { class: "caption muted" });
    this.stage.append(this.canvas, this.caption);
    this.makeMovable(this.canvas);
  }

  async startSingle() {
    const drawing = this.drawing;
    const sources = ["left", "right"].map((side) => pairImage(this.pair, side));
    if (!sources.every(Boolean)) {
      this.caption.textContent = "One of the images is missing.";
      return;
    }
    this.caption.textContent = "Loading the images";
    try {
      const [left, right, found] = await Promise.all([...sources.map(loadImage), this.matched().catch(() => null)]);
      if (drawing !== this.drawing) return;
      const isAligned = found !== null && found.evidence === "aligned" && found.matrix !== null;
      this.single = { left, right, matrix: isAligned ? found.matrix : [[1, 0, 0], [0, 1, 0]] };
      this.shown = "right";
      const aligned = isAligned ? " The left image is aligned with the right one." : "";
      if (this.view === "difference") {
        this.caption.textContent = `Black: equal.${aligned}`;
      } else {
        this.caption.textContent = `${hasReducedMotion() ? "Press F for the other image." : "Left and right in turn; F stops."}${aligned}`;
        if (!hasReducedMotion()) this.timer = setInterval(() => this.flip(), FLICKER_MS);
      }
      this.drawSingle();
    } catch {
      if (drawing === this.drawing) this.caption.textContent = "An image cannot be read.";
    }
  }

  /** Stop the flicker; once it has stopped, show the other image. */
  pauseOrFlip() {
    if (this.timer === null) this.flip();
    clearInterval(this.timer);
    this.timer = null;
  }

  flip() {
    if (!this.single) return;
    this.shown = this.shown === "left" ? "right" : "left";
    this.drawSingle();
  }

  drawSingle() {
    const { canvas, single } = this;
    if (!single || !canvas.isConnected) return;
    const context = sized(canvas);
    const { width, height } = canvas;
    const scale = Math.min(width / single.right.naturalWidth, height / single.right.naturalHeight) * this.zoom;
    const [w, h] = [single.right.naturalWidth * scale, single.right.naturalHeight * scale];
    const ratio = canvas.width / canvas.clientWidth;
    const [x, y] = [(width - w) / 2 + this.x * ratio, (height - h) / 2 + this.y * ratio];
    const [[a, b, c], [d, e, f]] = single.matrix;
    const drawRight = () => context.drawImage(single.right, x, y, w, h);
    const drawLeft = () => {
      context.save();
      context.beginPath();
      context.rect(x, y, w, h);
      context.clip();
      context.transform(w * a, h * d, w * b, h * e, x + w * c, y + h * f);
      context.drawImage(single.left, 0, 0, 1, 1);
      context.restore();
    };
    if (this.view === "difference") {
      drawRight();
      context.globalCompositeOperation = "difference";
      drawLeft();
    } else if (this.shown === "left") drawLeft();
    else drawRight();
  }

  // ---- matched features

  async matched() {
    const pair = this.pair;
    const key = `${pair.left_sha256} ${pair.right_sha256}`;
    if (!this.features.has(key)) {
      const query = new URLSearchParams({ left_sha256: pair.left_sha256, right_sha256: pair.right_sha256 });
      const loading = getJson(`${this.api}/features?${query}`);
      loading.catch(() => this.features.delete(key));
      this.features.set(key, loading);
    }
    return this.features.get(key);
  }

  async drawFeatures() {
    const drawing = this.drawing;
    if (!this.pair.right_sha256) {
      this.caption.textContent = "There is no second image.";
      return;
    }
    try {
      const found = await this.matched();
      if (drawing !== this.drawing) return;
      this.found = found;
      const tier = found.evidence.replaceAll("_", " ");
      const transform = found.transform ? `, ${plainText(found.transform)}` : "";
      const count = `${found.left.length} matched features`;
      this.caption.textContent = found.evidence === "aligned" ? `${count}: aligned${transform}` : `${count}: ${tier}, not aligned`;
      this.redraw();
    } catch (error) {
      if (drawing === this.drawing) this.caption.textContent = `No features: ${error.message}`;
    }
  }

  redraw() {
    if (this.view === "features" && this.found && this.overlay?.isConnected) this.drawLines();
    if (this.view === "flicker" || this.view === "difference") this.drawSingle();
  }

  drawLines() {
    const items = this.stage.querySelector(".pair-items");
    const frames = [...this.stage.querySelectorAll("figure > .frame")];
    const images = frames.map((each) => each.querySelector("img"));
    if (images.some((image) => !image?.naturalWidth)) return;
    this.overlay.style.height = `${items.clientHeight}px`;
    const context = sized(this.overlay);
    const origin = this.overlay.getBoundingClientRect();
    const ratio = this.overlay.width / origin.width;
    const boxes = images.map((image) => contentBox(image));
    const clips = frames.map((each) => each.getBoundingClientRect());
    context.scale(ratio, ratio);
    context.translate(-origin.left, -origin.top);
    context.lineWidth = 1;
    this.found.left.forEach((point, index) => {
      const ends = [point, this.found.right[index]].map(([x, y], side) => [
        boxes[side].x + x * boxes[side].width,
        boxes[side].y + y * boxes[side].height,
      ]);
      if (ends.some(([x, y], side) => x < clips[side].left || x > clips[side].right || y < clips[side].top || y > clips[side].bottom)) return;
      context.strokeStyle = context.fillStyle = COLORS[index % COLORS.length];
      context.globalAlpha = 0.55;
      context.beginPath();
      context.moveTo(...ends[0]);
      context.lineTo(...ends[1]);
      context.stroke();
      context.globalAlpha = 1;
      for (const [x, y] of ends) {
        context.beginPath();
        context.arc(x, y, 3, 0, 2 * Math.PI);
        context.fill();
      }
    });
  }

  // ---- zoom

  resetZoom() {
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
  }

  zoomBy(factor) {
    const zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    const change = zoom / this.zoom;
    this.zoom = zoom;
    this.move(this.x * (change - 1), this.y * (change - 1));
  }

  move(x, y) {
    if (this.zoom <= 1) this.resetZoom();
    else {
      const box = this.stage.querySelector(".frame, .single").getBoundingClientRect();
      const [maxX, maxY] = [box.width, box.height].map((each) => (each * (this.zoom - 1)) / 2 + each / 4);
      this.x = Math.min(maxX, Math.max(-maxX, this.x + x));
      this.y = Math.min(maxY, Math.max(-maxY, this.y + y));
    }
    this.applyZoom();
  }

  applyZoom() {
    for (const image of this.stage.querySelectorAll("figure > .frame > img")) {
      image.style.transform = this.zoom === 1 ? "" : `translate(${this.x}px, ${this.y}px) scale(${this.zoom})`;
    }
    if (this.zoom >= 2) this.sharpen();
    this.redraw();
    this.container.dispatchEvent(new CustomEvent("zoomed", { detail: this.zoom }));
  }

  /** Show larger images once a person zooms into them. */
  sharpen() {
    this.stage.querySelectorAll("figure > .frame > img").forEach(async (image, index) => {
      const sharp = imageUrl(this.pair[`${["left", "right"][index]}_sha256`], SHARP_SIDE);
      if (image.src.endsWith(sharp) || image.dataset.sharp) return;
      image.dataset.sharp = "loading";
      try {
        image.src = (await loadImage(sharp)).src;
      } catch {
        // The small image stays.
      }
    });
  }

  makeMovable(target) {
    let last = null;
    target.addEventListener("pointerdown", (event) => {
      last = [event.clientX, event.clientY];
      target.setPointerCapture(event.pointerId);
    });
    target.addEventListener("pointermove", (event) => {
      if (!last) return;
      this.move(event.clientX - last[0], event.clientY - last[1]);
      last = [event.clientX, event.clientY];
    });
    for (const name of ["pointerup", "pointercancel"]) target.addEventListener(name, () => (last = null));
    target.addEventListener("dblclick", () => this.zoomBy(this.zoom > 1 ? 0 : 3));
    target.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && this.zoom === 1) return; // the page scrolls
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY / 400));
      },
      { passive: false },
    );
  }
}

/** Whether the person asked for no motion. */
export function hasReducedMotion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

/** The context of a canvas of as many pixels as the screen has, cleared. */
function sized(canvas) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  return canvas.getContext("2d");
}

/** Where the image itself is in an element that contains it whole. */
function contentBox(image) {
  const box = image.getBoundingClientRect();
  const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  return { x: box.left + (box.width - width) / 2, y: box.top + (box.height - height) / 2, width, height };
}
