"""The words that options and records choose from. Nothing is imported, so that the command line starts quickly."""

VARIANTS = ("paper", "card", "train", "pair", "tail")  # of the listwise prompt
WITHOUT_TASK = ("pair", "tail")  # variants that say no task
DTYPES = ("auto", "float32", "bfloat16", "float16")
MEASURES = ("nDCG@10", "MAP", "R@100", "MRR@10")
ENGLISH = "en"
LANGUAGES = tuple("ar bn da de en es fa fi fr hi hu id it ja ko nl no pl pt ru sv te th tr uk zh".split())  # Anserini's
TESTS = ("t", "randomisation")
STAGES = ("embed", "rank")  # of training
ORDERS = ("initial", "reverse", "shuffle")  # in which the prompt reads its documents
RULES = ("prompt", "query", "average", "rocchio")  # what makes the vector that hits are scored by
FORMS = ("trec", "rank_llm", "ranx", "beir")  # of runs and qrels
KINDS = ("run", "qrels")
DEPTH = 100  # hits rescored, where nothing is said
