"use strict";
/* Interactive views of dense 4D point trajectories, many on a page, all drawn by one WebGL2 context.

   Every <figure class="viewer" data-scene="ID"> shows the scene packed by pack.py into the JSON script #ID.
   Axes are OpenCV's: x right, y down, z forward; the first view is the photo's own camera.
   window.more4dViewers lists the viewers with their state: ready, frame, playing, yaw, pitch, zoom, trails. */
(() => {
  const CAMERA = `#version 300 es
    precision highp float;
    uniform mat3 turn; uniform vec3 pivot; uniform float zoom; uniform vec4 lens; uniform vec2 range;
    vec3 toCamera(vec3 world) { return turn * (world - pivot) + pivot * zoom; }
    float toDepth(float z) { return (range.y + range.x - 2.0 * range.x * range.y / z) / (range.y - range.x); }
    vec4 toClip(vec3 p) { return vec4(lens.x * p.x + lens.z * p.z, -lens.y * p.y - lens.w * p.z, toDepth(p.z) * p.z, p.z); }`;
  const POINTS = [`${CAMERA}
    layout(location=0) in vec3 origin; layout(location=1) in vec3 before; layout(location=2) in vec3 after;
    layout(location=3) in vec3 colour; layout(location=4) in float spread;
    uniform float between, motionStep;
    uniform float cell, footprint;  // a grid cell at depth 1, and its canvas pixels at the depth where it was seen
    out vec3 shade; out float cone;
    void main() {
      vec3 p = toCamera(origin + motionStep * mix(before, after, between));
      gl_Position = toClip(p);
      gl_PointSize = clamp(footprint * spread * origin.z / p.z, 1.5, 256.0);
      // A sprite is a cone, its rim one cell behind its tip: neighbours meet half-way instead of hiding each other.
      cone = (toDepth(p.z + cell * spread * origin.z) - toDepth(p.z)) * 0.5;
      shade = colour;
    }`, `#version 300 es
    precision highp float; in vec3 shade; in float cone; out vec4 pixel;
    void main() {
      vec2 d = 2.0 * gl_PointCoord - 1.0;
      float r = dot(d, d);
      if (r > 1.0) discard;
      gl_FragDepth = gl_FragCoord.z + r * cone;
      pixel = vec4(shade, 1.0);
    }`];
  const TRAILS = [`${CAMERA}
    layout(location=0) in vec4 start; layout(location=1) in vec4 stop;  // xyz and the time as a share of the clip
    uniform vec2 canvas; uniform float now, thickness;
    out float when;
    void main() {
      float last = clamp((now - start.w) / (stop.w - start.w), 0.0, 1.0);
      vec4 a = toClip(toCamera(start.xyz)), b = toClip(toCamera(mix(start.xyz, stop.xyz, last)));
      vec2 along = (b.xy / b.w - a.xy / a.w) * canvas;
      vec2 across = length(along) > 1e-4 ? normalize(vec2(-along.y, along.x)) : vec2(0.0);
      bool atEnd = gl_VertexID > 1;
      gl_Position = atEnd ? b : a;
      gl_Position.xy += across * (gl_VertexID % 2 == 0 ? 1.0 : -1.0) * thickness / canvas * gl_Position.w;
      gl_Position.z -= 0.002 * gl_Position.w;  // in front of the points that they follow
      if (now <= start.w) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
      when = atEnd ? mix(start.w, stop.w, last) : start.w;
    }`, `#version 300 es
    precision highp float; in float when; out vec4 pixel;
    void main() {
      vec3 early = vec3(0.36, 0.42, 0.98), middle = vec3(0.93, 0.33, 0.60), late = vec3(1.0, 0.82, 0.30);
      pixel = vec4(when < 0.5 ? mix(early, middle, 2.0 * when) : mix(middle, late, 2.0 * when - 1.0), 1.0);
    }`];
  const HOLD = 0.7, MARGIN = 0.96, SPRITE = 1.8;  // s at the last frame; share of the canvas; overlap of the points
  const BACKGROUND = [0.055, 0.066, 0.086, 1];
  const STEEPEST = 3, TEAR = 8;  // in cells: the widest a point may grow on a slope; a gap that is no slope but an edge
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  async function inflate(text) {
    const stream = new Blob([more4dBytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /* Arrays for the graphics card: origins [N,3] metres, moves [T,N,4] steps, colours [N,3], spreads [N], segments [M,8]. */
  async function unpack(packed) {
    const [depth, colours, motion] = await Promise.all([packed.depth, packed.colour, packed.motion].map(inflate));
    const [columns, rows] = packed.grid, cells = columns * rows, count = colours.length / 3;
    const [fx, fy, cx, cy] = packed.lens, [low, high] = packed.depthRange;
    const origins = new Float32Array(3 * count);
    for (let cell = 0, at = 0; cell < cells; cell++) {
      const code = depth[cell] | (depth[cells + cell] << 8);
      if (!code) continue;
      const z = low * (high / low) ** ((code - 1) / 65534);
      const u = (cell % columns) * packed.stride + packed.offset + 0.5;
      const v = Math.floor(cell / columns) * packed.stride + packed.offset + 0.5;
      origins[at++] = ((u - cx) / fx) * z;
      origins[at++] = ((v - cy) / fy) * z;
      origins[at++] = z;
    }
    const frame = 4 * count, moves = new Int16Array(frame * packed.frames), highs = motion.length / 2;
    for (let t = 0, k = 0; t < packed.frames; t++)  // motion is [T,3,N]; sums wrap at 16 bits as the differences did
      for (let axis = 0; axis < 3; axis++)
        for (let n = 0, at = t * frame + axis; n < count; n++, k++, at += 4)
          moves[at] = (t ? moves[at - frame] : 0) + (motion[k] | (motion[highs + k] << 8));
    const segments = [], last = packed.frames - 1;
    const place = (n, t) => [0, 1, 2].map((a) => origins[3 * n + a] + packed.motionStep * moves[t * frame + 4 * n + a]);
    for (const n of packed.trails)
      for (let t = 0; t < last; t++) segments.push(...place(n, t), t / last, ...place(n, t + 1), (t + 1) / last);
    return { origins, moves, colours, spreads: spread(origins, depth, packed), segments: new Float32Array(segments), count };
  }

  /* How many cells apart each point's neighbours lie in space: points on slopes grow so that no gaps open between them. */
  function spread(origins, depth, packed) {
    const [columns, rows] = packed.grid, cells = columns * rows, spreads = new Float32Array(origins.length / 3).fill(1);
    const number = new Int32Array(cells);
    for (let cell = 0, n = 0; cell < cells; cell++) number[cell] = depth[cell] | depth[cells + cell] ? n++ : -1;
    const widen = (n, m) => {
      if (m < 0) return;
      const [a, b] = [3 * n, 3 * m];
      const gap = Math.hypot(origins[a] - origins[b], origins[a + 1] - origins[b + 1], origins[a + 2] - origins[b + 2]);
      const inCells = (gap * packed.lens[0]) / (packed.stride * Math.min(origins[a + 2], origins[b + 2]));
      if (inCells < TEAR) for (const k of [n, m]) spreads[k] = clamp(inCells, spreads[k], STEEPEST);
      else spreads[origins[a + 2] < origins[b + 2] ? n : m] = NaN;
    };
    for (let cell = 0; cell < cells; cell++) {
      if (number[cell] < 0) continue;
      if ((cell + 1) % columns) widen(number[cell], number[cell + 1]);
      if (cell + columns < cells) widen(number[cell], number[cell + columns]);
    }
    return spreads.map((cellsApart) => cellsApart || 1);  // NaN: an edge, which must not grow over what lies behind it
  }

  /* The one WebGL2 context: draws a viewer off screen and copies the picture to the viewer's own canvas. */
  class Painter {
    constructor() {
      this.canvas = document.createElement("canvas");
      this.gl = this.canvas.getContext("webgl2", { antialias: true, alpha: false });
      if (!this.gl) return;
      this.build();
      this.canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
      this.canvas.addEventListener("webglcontextrestored", () => {
        this.build();
        viewers.forEach((viewer) => { viewer.buffers = null; viewer.invalidate(); });
      });
    }
    build() {
      this.points = this.program(POINTS);
      this.trails = this.program(TRAILS);
      this.gl.enable(this.gl.DEPTH_TEST);
      this.gl.clearColor(...BACKGROUND);
    }
    program(sources) {
      const gl = this.gl, program = gl.createProgram();
      sources.forEach((source, i) => {
        const shader = gl.createShader(i ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER);
        gl.shaderSource(shader, source);
        gl.compileShader(shader);
        gl.attachShader(program, shader);
      });
      gl.linkProgram(program);
      if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost())
        throw new Error(gl.getAttachedShaders(program).map((s) => gl.getShaderInfoLog(s)).join("\n"));
      return new Proxy({ program }, { get: (known, name) => (known[name] ??= gl.getUniformLocation(program, name)) });
    }
    upload(scene) {
      const gl = this.gl, buffers = {};
      for (const name of ["origins", "moves", "colours", "spreads", "segments"]) {
        buffers[name] = gl.createBuffer();
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
        gl.bufferData(gl.ARRAY_BUFFER, scene[name], gl.STATIC_DRAW);
      }
      return buffers;
    }
    release(buffers) { Object.values(buffers).forEach((buffer) => this.gl.deleteBuffer(buffer)); }
    attribute(location, buffer, size, type, normalized, stride, offset, divisor = 0) {
      const gl = this.gl;
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(location);
      gl.vertexAttribPointer(location, size, type, normalized, stride, offset);
      gl.vertexAttribDivisor(location, divisor);
    }
    camera(program, viewer, width, height) {
      const gl = this.gl, { packed } = viewer, [fx, fy, cx, cy] = packed.lens, [w, h] = packed.image;
      const scale = viewer.scale(width, height), [cosY, sinY] = [Math.cos(viewer.yaw), Math.sin(viewer.yaw)];
      const [cosP, sinP] = [Math.cos(viewer.pitch), Math.sin(viewer.pitch)];
      const depth = packed.pivot[2];
      gl.useProgram(program.program);
      // Columns of Rx(pitch) · Ry(yaw).
      gl.uniformMatrix3fv(program.turn, false, [cosY, sinP * sinY, -cosP * sinY, 0, cosP, sinP, sinY, -sinP * cosY, cosP * cosY]);
      gl.uniform3fv(program.pivot, packed.pivot);
      gl.uniform1f(program.zoom, viewer.zoom);
      gl.uniform4f(program.lens, (2 * scale * fx) / width, (2 * scale * fy) / height,
        (scale * (2 * cx - w)) / width, (scale * (2 * cy - h)) / height);
      gl.uniform2f(program.range, 0.02 * depth, 20 * depth + 2 * packed.depthRange[1]);
    }
    draw(viewer) {
      const gl = this.gl, { packed, scene, buffers } = viewer, { width, height } = viewer.canvas;
      if (this.canvas.width < width) this.canvas.width = width;
      if (this.canvas.height < height) this.canvas.height = height;
      gl.viewport(0, 0, width, height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      const frame = clamp(Math.floor(viewer.frame), 0, packed.frames - 2), bytes = 8 * scene.count;
      this.camera(this.points, viewer, width, height);
      gl.uniform1f(this.points.between, viewer.frame - frame);
      gl.uniform1f(this.points.motionStep, packed.motionStep);
      gl.uniform1f(this.points.cell, packed.stride / packed.lens[0]);
      gl.uniform1f(this.points.footprint, SPRITE * packed.stride * viewer.scale(width, height));
      this.attribute(0, buffers.origins, 3, gl.FLOAT, false, 12, 0);
      this.attribute(1, buffers.moves, 3, gl.SHORT, false, 8, frame * bytes);
      this.attribute(2, buffers.moves, 3, gl.SHORT, false, 8, (frame + 1) * bytes);
      this.attribute(3, buffers.colours, 3, gl.UNSIGNED_BYTE, true, 3, 0);
      this.attribute(4, buffers.spreads, 1, gl.FLOAT, false, 4, 0);
      gl.drawArrays(gl.POINTS, 0, scene.count);
      if (viewer.trails && scene.segments.length) this.drawTrails(viewer, width, height);
      viewer.picture.drawImage(this.canvas, 0, this.canvas.height - height, width, height, 0, 0, width, height);
    }
    drawTrails(viewer, width, height) {
      const gl = this.gl;
      this.camera(this.trails, viewer, width, height);
      gl.uniform2f(this.trails.canvas, width, height);
      gl.uniform1f(this.trails.now, viewer.frame / (viewer.packed.frames - 1));
      gl.uniform1f(this.trails.thickness, Math.max(1.5, width / 450));
      for (const location of [2, 3, 4]) gl.disableVertexAttribArray(location);
      this.attribute(0, viewer.buffers.segments, 4, gl.FLOAT, false, 32, 0, 1);
      this.attribute(1, viewer.buffers.segments, 4, gl.FLOAT, false, 32, 16, 1);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, viewer.scene.segments.length / 8);
    }
  }

  class Viewer {
    constructor(root) {
      Object.assign(this, { root, ready: false, visible: false, playing: false, frame: 0, trails: false, touched: false, held: 0, idle: 0 });
      const find = (selector) => root.querySelector(selector);
      Object.assign(this, { canvas: find("canvas"), play: find(".play"), time: find(".time"), clock: find(".clock"),
        trailButton: find(".trails"), message: find(".viewer-message") });
      this.picture = this.canvas.getContext("2d");
      this.pointers = new Map();
      this.home();
      this.listen();
    }
    home() { Object.assign(this, { orbit: [0, 0], yaw: 0, pitch: 0, zoom: 1 }); }
    scale(width, height) { return MARGIN * Math.min(width / this.packed.image[0], height / this.packed.image[1]); }

    async show() {
      this.visible = true;
      try {
        this.packed ??= JSON.parse(document.getElementById(this.root.dataset.scene).textContent);
        if (!painter.gl) throw new Error("This browser offers no WebGL2, so the interactive view cannot be drawn here.");
        if (!window.DecompressionStream) throw new Error("This browser is too old for the interactive view: it has no DecompressionStream.");
        this.scene = await (this.loading ??= unpack(this.packed));
      } catch (error) { return this.fail(error); }
      this.time.max = this.packed.frames - 1;
      this.trailButton.disabled = !this.packed.trails.length;
      if (!this.ready) this.setPlaying(!calm.matches);
      this.ready = true;
      this.invalidate();
    }
    hide() {  // what is off screen keeps its arrays but gives its graphics memory back
      this.visible = false;
      if (this.buffers) painter.release(this.buffers);
      this.buffers = null;
    }
    fail(error) {
      this.message.textContent = error.message;
      this.message.hidden = false;
      this.root.classList.add("failed");
    }
    setPlaying(playing) {
      this.playing = playing;
      this.play.setAttribute("aria-label", playing ? "Pause" : "Play");
      this.play.classList.toggle("playing", playing);
      if (playing) this.invalidate();
    }
    seek(frame) {
      this.setPlaying(false);
      this.frame = clamp(frame, 0, this.packed.frames - 1);
      this.invalidate();
    }
    setTrails(trails) {
      this.trails = trails && this.packed.trails.length > 0;
      this.trailButton.setAttribute("aria-pressed", this.trails);
      this.invalidate();
    }
    turn(yaw, pitch) {
      this.touch();
      this.orbit = [clamp(this.orbit[0] + yaw, -3.2, 3.2), clamp(this.orbit[1] + pitch, -1.5, 1.5)];
      this.invalidate();
    }
    dolly(factor) { this.touch(); this.zoom = clamp(this.zoom * factor, 0.15, 6); this.invalidate(); }
    touch() {  // the first touch ends the idle swaying where it is
      if (!this.touched) this.orbit = [this.yaw, this.pitch];
      this.touched = true;
    }
    reset() { this.touched = true; this.home(); this.invalidate(); }
    invalidate() { this.dirty = true; wake(); }

    /* True while the picture changes by itself. */
    advance(seconds) {
      const last = this.packed.frames - 1;
      if (this.playing && this.frame >= last) {
        this.held += seconds;
        if (this.held > HOLD) [this.frame, this.held] = [0, 0];
      } else if (this.playing) this.frame = Math.min(this.frame + seconds * this.packed.fps, last);
      const swaying = !this.touched && !calm.matches;
      if (swaying) this.idle += seconds;
      [this.yaw, this.pitch] = swaying ? [0.1 * Math.sin(0.8 * this.idle), 0.04 * Math.sin(0.5 * this.idle)] : this.orbit;
      return this.playing || swaying;
    }
    draw() {
      this.dirty = false;
      const ratio = Math.min(window.devicePixelRatio || 1, 2), box = this.canvas.getBoundingClientRect();
      const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
      if (!width || !height) return;
      if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
      this.buffers ??= painter.upload(this.scene);
      painter.draw(this);
      this.time.value = this.frame;
      this.clock.textContent = `${(this.frame / this.packed.fps).toFixed(2)} s`;
    }

    listen() {
      const on = (target, type, act) => target.addEventListener(type, (event) => this.ready && act(event), { passive: false });
      on(this.play, "click", () => this.setPlaying(!this.playing));
      on(this.time, "input", () => this.seek(Number(this.time.value)));
      on(this.trailButton, "click", () => this.setTrails(!this.trails));
      on(this.root.querySelector(".reset"), "click", () => this.reset());
      on(this.root.querySelector(".full"), "click", () => this.toggleFull());
      on(this.canvas, "dblclick", () => this.reset());
      on(this.canvas, "pointerdown", (event) => this.grab(event));
      on(this.canvas, "pointermove", (event) => this.drag(event));
      for (const type of ["pointerup", "pointercancel"]) on(this.canvas, type, (event) => this.pointers.delete(event.pointerId));
      on(this.canvas, "wheel", (event) => this.wheel(event));
      on(this.root, "keydown", (event) => this.key(event));
    }
    toggleFull() { document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen?.(); }
    grab(event) {
      this.canvas.focus({ preventScroll: true });
      this.canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    }
    drag(event) {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const span = () => { const [a, b] = [...this.pointers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
      const two = this.pointers.size === 2, old = two && span();
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      if (two) return this.dolly(clamp(old / Math.max(span(), 1), 0.5, 2));
      const reach = 3.2 / this.canvas.clientWidth;
      this.turn((before[0] - event.clientX) * reach, (event.clientY - before[1]) * reach);
    }
    wheel(event) {  // a page must scroll past a viewer: the wheel zooms once the viewer was clicked, a pinch always
      if (document.activeElement !== this.canvas && !event.ctrlKey) return;
      event.preventDefault();
      this.dolly(Math.exp(clamp(event.deltaY, -120, 120) * (event.ctrlKey ? 0.01 : 0.0015)));
    }
    key(event) {
      const onSlider = event.target === this.time, step = (by) => this.seek(Math.round(this.frame) + by);
      const actions = { " ": () => this.setPlaying(!this.playing), t: () => this.setTrails(!this.trails),
        ",": () => step(-1), ".": () => step(1), "+": () => this.dolly(0.9), "-": () => this.dolly(1.1), "0": () => this.reset(),
        ArrowLeft: () => (onSlider ? step(-1) : this.turn(0.08, 0)), ArrowRight: () => (onSlider ? step(1) : this.turn(-0.08, 0)),
        ArrowUp: () => this.turn(0, -0.08), ArrowDown: () => this.turn(0, 0.08) };
      const act = actions[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey || (event.key === " " && event.target.tagName === "BUTTON")) return;
      event.preventDefault();
      act();
    }
  }

  let awake = false, lastTick = 0;
  function wake() {
    if (awake) return;
    awake = true;
    lastTick = performance.now();
    requestAnimationFrame(tick);
  }
  function tick(now) {
    const seconds = clamp((now - lastTick) / 1000, 0, 0.1);
    lastTick = now;
    awake = false;
    for (const viewer of viewers) {
      if (!viewer.visible || !viewer.ready) continue;
      const moving = viewer.advance(seconds);
      if (moving || viewer.dirty) viewer.draw();
      if (moving) awake = true;
    }
    if (awake) requestAnimationFrame(tick);
  }

  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const viewers = (window.more4dViewers = []);
  const painter = new Painter();
  viewers.push(...[...document.querySelectorAll("figure.viewer")].map((root) => new Viewer(root)));
  const owner = (entry) => viewers.find((viewer) => viewer.root === entry.target);
  const watch = new IntersectionObserver((entries) =>
    entries.forEach((entry) => (entry.isIntersecting ? owner(entry).show() : owner(entry).hide())), { rootMargin: "150px" });
  const sizes = new ResizeObserver(() => viewers.forEach((viewer) => viewer.ready && viewer.invalidate()));
  viewers.forEach((viewer) => { watch.observe(viewer.root); sizes.observe(viewer.canvas); });
})();
