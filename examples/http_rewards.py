"""Rewards of generated videos for their prompts, over HTTP: http_rewards.py URL PROMPT VIDEO…"""

import sys
from pathlib import Path

import requests

url, prompt, *videos = sys.argv[1:]
files = [("video", (name, Path(name).read_bytes())) for name in videos]
answer = requests.post(f"{url}/v1/score", files=files, data={"metric": "aigc_vqa", "prompt": prompt}, timeout=600)
if "results" not in answer.json():
    sys.exit(f"{url}: {answer.json()['error']}")
for result in answer.json()["results"]:
    reward = result.get("score", 0.0)
    print(f"{reward:.3f} {result['source']} {result.get('parts', result.get('error'))}")
