// Plays moments: whatever has `data-start` and `data-end` plays that part of the video when it is pressed.
(() => {
  let stop = null; // seconds at which the player pauses

  const isOurs = (target) => target instanceof HTMLMediaElement && target.closest("#r2-video");

  function pauseAtEnd(player) {
    if (stop !== null && !player.seeking && player.currentTime >= stop) {
      stop = null;
      player.pause();
    }
  }

  function watch(player) { // between the events `timeupdate`, which come four times a second
    pauseAtEnd(player);
    if (!player.paused) requestAnimationFrame(() => watch(player));
  }

  document.addEventListener("click", (event) => {
    const part = event.target.closest("[data-start]");
    const player = document.querySelector("#r2-video video");
    if (!part || !player) return;
    stop = null;
    player.currentTime = Number(part.dataset.start);
    stop = Number(part.dataset.end);
    player.play().catch(() => {}); // another press may interrupt it
    player.scrollIntoView({ block: "nearest", behavior: "smooth" });
  });

  document.addEventListener("play", (event) => {
    if (isOurs(event.target)) watch(event.target);
  }, true);

  // A user who moves the player beyond the moment is not stopped.
  document.addEventListener("seeked", (event) => {
    if (isOurs(event.target) && stop !== null && event.target.currentTime > stop) stop = null;
  }, true);

  document.addEventListener("timeupdate", (event) => {
    if (!isOurs(event.target)) return;
    pauseAtEnd(event.target);
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
