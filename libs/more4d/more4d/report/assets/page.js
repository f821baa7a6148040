"use strict";
/* Novel-view videos: one pair of players a scene, filled from the scene's JSON when they come into view.
   A page of many scenes would pass the browsers' limit on players and memory if every camera had its own. */
(() => {
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

  /* A blob URL: Safari seeks and loops in one, not in a data URL. */
  function movie(text) {
    return URL.createObjectURL(new Blob([more4dBytes(text)], { type: "video/mp4" }));
  }

  class Views {
    constructor(root) {
      this.root = root;
      this.players = { completed: root.querySelector(".completed"), render: root.querySelector(".render") };
      this.urls = new Map();
      root.querySelectorAll("[data-camera]").forEach((button) =>
        button.addEventListener("click", () => this.choose(button.dataset.camera)));
      Object.values(this.players).forEach((player) => {
        player.addEventListener("click", () => this.toggle());
        player.addEventListener("keydown", (event) => { if (event.key === " ") { event.preventDefault(); this.toggle(); } });
      });
      this.players.completed.addEventListener("timeupdate", () => this.align());
    }
    show() {
      this.videos ??= JSON.parse(document.getElementById(this.root.dataset.videos).textContent);
      if (!this.camera) this.choose(this.root.querySelector("[data-camera]").dataset.camera);
      else if (!this.paused) this.run();
    }
    hide() { this.all((player) => player.pause()); }
    all(act) { Object.values(this.players).forEach((player) => player.src && act(player)); }
    choose(camera) {
      this.camera = camera;
      this.root.querySelectorAll("[data-camera]").forEach((button) =>
        button.setAttribute("aria-pressed", button.dataset.camera === camera));
      for (const [kind, player] of Object.entries(this.players)) {
        const key = `${camera}/${kind}`;
        if (!this.urls.has(key)) this.urls.set(key, movie(this.videos[camera][kind]));
        player.src = this.urls.get(key);
      }
      this.paused = calm.matches;
      if (!this.paused) this.run();
    }
    run() { this.all((player) => player.play().catch(() => {})); }  // refused by a browser that saves power: stays a still
    toggle() {
      this.paused = !this.players.completed.paused;
      if (this.paused) this.hide(); else this.run();
    }
    align() {
      const { completed, render } = this.players;
      if (Math.abs(render.currentTime - completed.currentTime) > 0.08) render.currentTime = completed.currentTime;
    }
  }

  const all = [...document.querySelectorAll(".views")].map((root) => new Views(root));
  const watch = new IntersectionObserver((entries) => entries.forEach((entry) => {
    const views = all.find((one) => one.root === entry.target);
    if (entry.isIntersecting) views.show(); else views.hide();
  }), { rootMargin: "150px" });
  all.forEach((views) => watch.observe(views.root));
})();
