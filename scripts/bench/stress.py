"""stub"""


def scaling(b):
    return {}


def stalls(b):
    return {}
