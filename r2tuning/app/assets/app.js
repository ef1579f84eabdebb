// Plays moments: whatever has `data-start` and `data-end` plays that part of the video of its tab when it is pressed.
(() => {
  let stop = null; // seconds at which the player pauses

  function playPart(player, start, end) {
    stop = null;
    player.currentTime = start;
    stop = end;
    player.play();
    requestAnimationFrame(() => watch(player));
  }

  function watch(player) {
    if (stop !== null && !player.seeking && player.currentTime >= stop) {
      stop = null;
      player.pause();
    }
    if (!player.paused) requestAnimationFrame(() => watch(player));
  }

  document.addEventListener("click", (event) => {
    const part = event.target.closest("[data-start]");
    const player = document.querySelector("#r2-video video");
    if (!part || !player) return;
    playPart(player, Number(part.dataset.start), Number(part.dataset.end));
    player.scrollIntoView({ block: "nearest", behavior: "smooth" });
  });

  // A user who moves the player elsewhere is not stopped at the end of the moment.
  document.addEventListener("seeked", (event) => {
    if (stop !== null && event.target.currentTime > stop) stop = null;
  }, true);

  document.addEventListener("timeupdate", (event) => {
    if (!event.target.closest("#r2-video")) return;
    const share = 100 * event.target.currentTime / event.target.duration;
    for (const playhead of document.querySelectorAll(".r2-playhead")) playhead.style.left = `${share}%`;
  }, true);

  // Called by the page once a file is written.
  window.r2Download = (address, name) => {
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.click();
  };
})();
