"""`/v1/models`: what can be asked for, with the key that asks."""

from fastapi import APIRouter, Request

from rs_gateway.access import Access
from rs_gateway.api.schemas import ErrorBody, ModelCard, ModelList
from rs_gateway.domain.access import ClientKey
from rs_gateway.domain.errors import ModelNotFoundError
from rs_gateway.domain.pools import Catalog
from rs_gateway.serving import Serving

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="Everything that `model` may name: templates and models")
async def list_models(request: Request) -> ModelList:
    """Templates first-class: ask for one by its id and the gateway picks the model. Only what the client key allows."""
    serving: Serving = request.app.state.serving
    catalog = serving.served.catalog
    return ModelList(data=[_card(name, catalog, request.app.state.started_at) for name in _names(request, catalog)])


@router.get("/v1/models/{name:path}", summary="One of them", responses={404: {"model": ErrorBody}})
async def get_model(name: str, request: Request) -> ModelCard:
    """404 `model_not_found` lists what there is for the client key."""
    serving: Serving = request.app.state.serving
    catalog = serving.served.catalog
    names = _names(request, catalog)
    if name not in names:
        raise ModelNotFoundError(name, available=names)
    return _card(name, catalog, request.app.state.started_at)


def _names(request: Request, catalog: Catalog) -> list[str]:
    access: Access = request.app.state.access
    key = access.identify(request.scope["headers"])
    if key is None:
        return catalog.names()
    return [name for name in catalog.names() if _may_ask(key, name, catalog)]


def _may_ask(key: ClientKey, name: str, catalog: Catalog) -> bool:
    """As a request with this `model` alone would be judged; an ambiguous one, by any template that it could mean."""
    if name in catalog.ambiguous:
        return any(key.allows(template_id=template_id, model=name) for template_id in catalog.ambiguous[name])
    pool = catalog.pools.get(name) or catalog.by_model.get(name)
    template = pool.template if pool is not None else None
    return key.allows(template_id=template.template_id if template is not None else None, model=name)


def _card(name: str, catalog: Catalog, created: int) -> ModelCard:
    if name in catalog.pools:
        return ModelCard(id=name, created=created, owned_by="route-switch")
    for combination in (*catalog.passthrough.values(), *(c for p in catalog.pools.values() for c in p.combinations)):
        if combination.model == name:
            return ModelCard(id=name, created=created, owned_by=combination.provider)
    return ModelCard(id=name, created=created, owned_by="route-switch")
