"use strict";
let current = null;
for (const player of document.querySelectorAll(".player")) {
  const audio = player.querySelector("audio");
  const button = player.querySelector("button");
  const track = player.querySelector(".track");
  const paint = () => {
    track.style.setProperty("--played", (audio.duration ? 100 * audio.currentTime / audio.duration : 0) + "%");
    if (!audio.paused) requestAnimationFrame(paint);
  };
  const play = () => {
    if (current && current !== audio) current.pause();
    current = audio;
    audio.play().catch(() => {});
  };
  button.addEventListener("click", () => (audio.paused ? play() : audio.pause()));
  track.addEventListener("click", (event) => {
    const box = track.getBoundingClientRect();
    if (audio.duration) audio.currentTime = audio.duration * (event.clientX - box.left) / box.width;
    play();
  });
  audio.addEventListener("play", () => { button.classList.add("playing"); paint(); });
  audio.addEventListener("pause", () => { button.classList.remove("playing"); paint(); });
  audio.addEventListener("ended", () => { audio.currentTime = 0; paint(); });
}
// Kubeflow's page shows the report as the srcdoc of a sandboxed frame, where "#part" is an address of that page: a click
// would load it in place of the report.
for (const link of document.querySelectorAll('a[href^="#"]')) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById(link.hash.slice(1)).scrollIntoView({ behavior: "smooth" });
  });
}
