MODEL_NAME = "openai/capable"
LEVELS = "easy, hard"
