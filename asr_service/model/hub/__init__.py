"""Models of the Hugging Face hub: `fetch.py` brings a model's one `.nemo` file into the cache of the hub's library.

The library is imported where a hub's name is at hand and nowhere else; torch is not needed. Its variables mean what
they mean to it: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the usual ones of proxies.
"""
