from .programs import CodeCheck as CodeCheck
from .template import Example as Example
from .template import PromptTemplate as PromptTemplate
from .tokens import Prompts as Prompts
from .tokens import build_prompts as build_prompts
