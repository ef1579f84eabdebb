"""A page for the browser that finds moments in videos (`r2tuning app`).

- `launch`: start the server
- `page`: the layout and its events
- `grounding`: encode a video once, ground queries, decode answers
- `sessions`: what is kept for each open page
- `playback`: a copy of a video that browsers play
- `markup`: answers as HTML
- `downloads`: answers as files
"""
