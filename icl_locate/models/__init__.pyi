from .costs import ModelCosts as ModelCosts
from .loading import load_model as load_model
